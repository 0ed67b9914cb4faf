"""What a configuration names, as objects: the trainer, the optimiser and its schedule, the source of x_t."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from rich.console import Console
from torch import nn

from esd import models
from esd.command.checks import option_errors
from esd.command.progress import progress
from esd.edits.edit import Edit
from esd.edits.lora import tensors_of
from esd.erasing import layers, lora
from esd.erasing.concepts import Concept
from esd.erasing.erasure import Erasure
from esd.erasing.prompts import PromptTable
from esd.erasing.trajectories import Cache, Pool, StudentWalks, WalkingSource
from esd.erasing.walk_store import WalkStore
from esd.models import precision
from esd.models.family import Model
from esd.train.callbacks import AtomicCheckpointIO, ErasingBar


def trainer_of(cfg: DictConfig, folder: Path) -> Trainer:
    """The configured trainer. Raises UserError for a device, a precision or an option that it cannot have."""
    with option_errors("trainer"):
        return instantiate(
            cfg.trainer,
            _convert_="all",
            max_steps=cfg.steps,
            limit_train_batches=cfg.steps,
            logger=False,
            callbacks=[ErasingBar(refresh_rate=5)],
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )


def optimizer_of(cfg: DictConfig) -> tuple[Callable, Callable]:
    """What makes the optimiser and its schedule, tried out on one number. Raises UserError for an option they have not."""
    with option_errors("optimizer, schedule"):
        optimizer, schedule = instantiate(cfg.optimizer), instantiate(cfg.schedule)
        schedule(optimizer([torch.nn.Parameter(torch.zeros(()))]))
    return optimizer, schedule


def networks_of(cfg: DictConfig, rule: layers.LayerRule) -> tuple[Model, nn.Module, list[str]]:
    """The configured model, the student, and the names of what the student trains.

    The student is made of the weights on disk, before the frozen ones are rounded to what they are stored in.
    """
    model = models.load(cfg.model.path, cfg.model.name, "fp32" if cfg.model.dtype == "fp32" else "auto")
    names = layers.select_parameters(model.denoiser, rule)
    if cfg.lora.rank is None:
        student, trained = layers.student_of(model.denoiser, names), names
    else:
        student, trained = lora.lora_student_of(model.denoiser, names, *rank_and_alpha(cfg), cfg.seed, rule.name)
    precision.store(model.base, model.denoiser, cfg.model.dtype)
    if cfg.model.quantize is not None:
        precision.quantize(model.denoiser, student)
    return model, student, trained


def rank_and_alpha(cfg: DictConfig) -> tuple[int, float]:
    """Of the LoRA; alpha is the rank unless it is given."""
    return cfg.lora.rank, cfg.lora.rank if cfg.lora.alpha is None else cfg.lora.alpha


def edit_of(cfg: DictConfig, module: Erasure, record: dict) -> Edit:
    """What was trained."""
    tensors = module.trained_tensors()
    if cfg.lora.rank is not None:
        part = "transformer" if hasattr(module.model.base, "transformer") else "unet"
        tensors = tensors_of(lora.factors(tensors, *rank_and_alpha(cfg)), part)
    return Edit(tensors, record)


def concept_template_pairs(prompts: PromptTable) -> list[tuple[int, int]]:
    """(concept, template) of all that is asked for; preserved prompts are taken as they stand."""
    return [(k, j) for k, concept in enumerate(prompts.concepts) for j in range(len(prompts.templates) if concept.eta else 1)]


def preserving_examples(cfg: DictConfig, kept: list[Concept]) -> int:
    """Examples of a step that preserve."""
    return (cfg.preserve_batch or cfg.batch) if kept else 0


def source_of(cfg: DictConfig, module_parts: tuple, walks: WalkingSource, console: Console) -> StudentWalks | Pool | Cache:
    """The configured source of x_t."""
    kind = cfg.trajectories.name
    if kind == "student":
        return StudentWalks(*module_parts)
    if kind == "pool":
        return Pool(*module_parts, walker=cfg.trajectories.walker)
    options = cfg.trajectories
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}[options.dtype]
    store = WalkStore(options.folder, options.walks, options.seed, dtype, options.chunk, options.limit)
    prompts, pairs = walks.prompts, concept_template_pairs(walks.prompts)
    with progress(console, "steps") as bar:
        task = bar.add_task("Rolling out", total=len(pairs) * options.walks * len(walks.sampler))
        found = {pair: store.get(walks, *pair, lambda n: bar.advance(task, n)) for pair in pairs}
    walks.model.denoiser.cpu()  # what the student shares with it goes back to the device with the student
    rows = [
        [found[k, j if (k, j) in found else 0] for j in range(len(prompts.templates))] for k in range(len(prompts.concepts))
    ]
    return Cache(rows, prompts)
