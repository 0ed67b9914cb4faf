"""The options of training, with their types: what a wrong value is checked against before anything heavy is imported."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

from esd import UserError
from esd.command.checks import require_at_least, require_one_of, texts
from esd.models import DTYPES


@dataclass
class Lora:
    """rank: none, whole weights are trained. alpha: none, the rank: a scale of 1."""

    rank: int | None = None
    alpha: float | None = None


@dataclass
class Train:
    """python -m esd.train. The groups (model, layers, trajectories, …) are open nodes and lie beside these."""

    concept: Any = MISSING
    erase_from: Any = ""
    templates: list[str] = field(default_factory=lambda: ["{}"])
    eta: float = 1.0
    guidance: float = 3.0
    sampling_steps: int = 50
    steps: int = 1000
    batch: int = 1
    lr: float = 1e-5
    lora: Lora = field(default_factory=Lora)
    seed: int = 0
    preserve: Any = None
    preserve_weight: float = 1.0
    preserve_batch: int = 0
    grid: int = 8
    grid_every: int = 0
    checkpoint_every: int = 100
    checkpoint_minutes: float = 10.0
    resume: str | None = None
    evaluate: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False
    truncate: bool = False
    objective: str = "kept-erased"
    model: Any = MISSING
    layers: Any = MISSING
    trajectories: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING


ConfigStore.instance().store(name="train_schema", node=Train)


def check_train_options(cfg: DictConfig) -> None:
    """Everything about a training configuration that can be told without a model. Raises UserError."""
    concepts = texts(cfg.concept, "concept")
    if cfg.erase_from:
        sources = texts(cfg.erase_from, "erase_from")
        if len(sources) not in (1, len(concepts)):
            raise UserError(
                f"concept has {len(concepts)} entries and erase_from {len(sources)}: they pair up, "
                f"so give {len(concepts)}, or one that serves all"
            )
    for template in cfg.templates or [""]:
        if template.count("{}") != 1:
            raise UserError(f"templates: '{template}' needs one {{}} where the concept goes, for example 'a painting by {{}}'")
    require_at_least(
        cfg, steps=1, batch=1, sampling_steps=1, preserve_batch=0, seed=0, grid=0, grid_every=0, checkpoint_every=1
    )
    require_at_least(cfg, eta=0.0, guidance=0.0, lr=0.0, preserve_weight=0.0, checkpoint_minutes=0.0)
    if cfg.lr == 0:
        raise UserError("lr=0 trains nothing: for example lr=1e-5")
    if cfg.lora.rank is not None:
        require_at_least(cfg.lora, "lora.", rank=1)
    if cfg.lora.alpha is not None and (cfg.lora.rank is None or not 0 < cfg.lora.alpha < math.inf):
        raise UserError(f"lora.alpha={cfg.lora.alpha:g} must be above 0, and beside it a rank: for example lora.rank=16")
    if cfg.model.quantize is not None:
        require_one_of(cfg.model.quantize, "model.quantize", ("int8",))
        if cfg.lora.rank is None:
            raise UserError("model.quantize=int8 is for weights that stay as they are: give lora.rank=16 beside it")
        if importlib.util.find_spec("torchao") is None:
            raise UserError("model.quantize=int8 needs torchao: pip install 'erased-diffusion[int8]'")
    require_one_of(cfg.objective, "objective", ("kept-erased", "erased", "kept"))
    require_one_of(cfg.model.dtype, "model.dtype", DTYPES)
    require_one_of(cfg.logger.name, "logger.name", ("wandb", "csv", "none"))
    require_one_of(cfg.trajectories.name, "trajectories.name", ("student", "pool", "cache"))
    if cfg.trajectories.name == "pool":
        require_one_of(cfg.trajectories.walker, "trajectories.walker", ("frozen", "student"))
    if cfg.trajectories.name == "cache":
        require_at_least(cfg.trajectories, "trajectories.", walks=1, chunk=1, seed=0, limit=0.0)
        require_one_of(cfg.trajectories.dtype, "trajectories.dtype", ("float16", "bfloat16", "float32"))
