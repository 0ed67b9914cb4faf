"""What a configuration names, as objects: the options of the run and its trainer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer

from esd import UserError
from esd.command.checks import check_precision, option_errors, require_one_of
from esd.erasing.adversary import Robust
from esd.erasing.bar import ErasingBar
from esd.erasing.layers import rule_of
from esd.erasing.run import Options, lora_of, trainer_for
from esd.erasing.trajectories import Trajectories
from esd.train.callbacks import AtomicCheckpointIO
from esd.train.run_prompts import concepts_of, preserved_by_default, spared_by_default

PLAIN = (  # the options that are what the configuration says
    "templates", "eta", "guidance", "sampling_steps", "steps", "batch", "lr", "seed", "preserve_weight", "preserve_batch",
    "spare", "closed_form", "gradient_checkpointing", "compile",
)  # fmt: skip


def options_of(cfg: DictConfig) -> Options:
    """Raises UserError for a part that there is not, or an option that it has not."""
    concepts, preserved = concepts_of(cfg)
    with option_errors("layers"):
        layers = rule_of(instantiate(cfg.layers, _convert_="all"))
    optimizer, schedule = optimizer_of(cfg)
    plain = OmegaConf.to_container(cfg, resolve=True)
    spared = spared_by_default(cfg.model.name, concepts) if cfg.spare or cfg.closed_form else []
    robust = None
    if cfg.robust.share:
        robust = Robust(**plain["robust"], others=preserved_by_default(cfg.model.name, [c.text for c in concepts]))
    return Options(
        concepts=concepts, preserved=preserved, spared=spared, layers=layers, trajectories=trajectories_of(cfg),
        optimizer=optimizer, schedule=schedule,
        lora=lora_of(cfg.lora.rank, cfg.lora.alpha), dtype=cfg.model.dtype, quantize=cfg.model.quantize, robust=robust,
        **{name: plain[name] for name in PLAIN},
    )  # fmt: skip


def trajectories_of(cfg: DictConfig) -> Trajectories:
    """The configured source of x_t. Raises UserError where it is none, or has other options, or is called otherwise."""
    options = OmegaConf.to_container(cfg.trajectories, resolve=True)
    name = options.pop("name", None)
    with option_errors("trajectories"):
        source = instantiate(options, _convert_="all")
        if not isinstance(source, Trajectories):
            raise UserError(f"trajectories: {options.get('_target_')} is no esd.erasing.trajectories.Trajectories")
    require_one_of(name, "trajectories.name", (source.name,))  # it is what records and reports call it
    return source


def optimizer_of(cfg: DictConfig) -> tuple[Callable, Callable]:
    """What makes the optimiser and its schedule, tried out on one number. Raises UserError for an option they have not."""
    with option_errors("optimizer, schedule"):
        optimizer, schedule = instantiate(cfg.optimizer), instantiate(cfg.schedule)
        schedule(optimizer([torch.nn.Parameter(torch.zeros(()))]))
    return optimizer, schedule


def trainer_of(cfg: DictConfig, folder: Path) -> Trainer:
    """The configured trainer. Raises UserError for a device, a precision or an option that it cannot have."""
    check_precision(cfg.trainer.get("precision"), "trainer.precision")
    with option_errors("trainer"):
        return trainer_for(
            partial(instantiate, cfg.trainer, _convert_="all"), cfg.steps, callbacks=[ErasingBar(refresh_rate=5)],
            plugins=[AtomicCheckpointIO()], default_root_dir=folder,
        )  # fmt: skip
