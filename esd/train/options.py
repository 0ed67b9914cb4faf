"""The options of training, with their types: what a wrong value is checked against before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from esd import UserError
from esd.command.checks import require_at_least, require_one_of, texts
from esd.erasing.checks import check_lora, check_options
from esd.files import slug
from esd.models import DTYPES


@dataclass
class Lora:
    """rank: none, whole weights are trained. alpha: none, the rank: a scale of 1."""

    rank: int | None = None
    alpha: float | None = None


@dataclass
class Robust:
    share: float = 0.0
    inner: int = 1


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
    spare: float = 0.0
    closed_form: float = 0.0
    robust: Robust = field(default_factory=Robust)
    grid: int = 8
    grid_every: int = 0
    curve_every: int = 0
    stop: str | None = None
    checkpoint_every: int = 100
    checkpoint_minutes: float = 10.0
    resume: str | None = None
    evaluate: Any = True
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


def for_styles(usual: float, of_styles: float | None, concept: object) -> float:
    """What suits the model, where it says so of styles and one is to be erased; else the usual."""
    return of_styles if of_styles and any(names_a_style(text) for text in listed(concept)) else usual


def default_steps(steps: int, style_times: float | None, concept: object, growth: float = 1) -> int:
    """How many steps a run has unless it is told: as many as suit the model, times n^growth for n concepts, for every example
    is of one of them; style_times times as many where a style is among them."""
    return round(steps * for_styles(1, style_times, concept) * max(len(listed(concept)), 1) ** growth)


def listed(concept: object) -> list[str]:
    """The concepts of an option that may be one text, a list, or nothing yet."""
    return [concept] if isinstance(concept, str) else [str(text) for text in concept or []]


def names_a_style(text: str) -> bool:
    """Whether the embedded model's word for it is that of a style alone."""
    from esd.emoji.subject import subject, unknown_words

    return not unknown_words(text) and bool((about := subject(text)).styles) and not about.objects


AUTO, FOUND = "auto", "concept.txt"  # concept=auto: found in the pictures given; in the run's folder, where it was found


def is_to_be_found(cfg: Mapping) -> bool:
    """Whether the concept is given as pictures alone (esd/erasing/naming.py finds its text)."""
    return texts(cfg["concept"], "concept") == [AUTO]


def with_concept(cfg: DictConfig, text: str) -> DictConfig:
    """The configuration with the text that was found."""
    return OmegaConf.merge(cfg, {"concept": text})


def as_found_before(cfg: DictConfig, folder: Path) -> DictConfig:
    """A run that goes on, with the text that it found when it was begun."""
    file = folder / FOUND
    known = cfg.resume and is_to_be_found(cfg) and file.is_file()
    return with_concept(cfg, file.read_text(encoding="utf-8").strip()) if known else cfg


def run_name(concept: object, images: str | None) -> str:
    """What a run's folder is called: its concept, or the folder of pictures that stands for it."""
    return slug(f"images-{Path(images).name}" if concept == AUTO and images else concept)


OmegaConf.register_new_resolver("for_styles", for_styles, replace=True)
OmegaConf.register_new_resolver("default_steps", default_steps, replace=True)
OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def check_train_options(cfg: DictConfig) -> None:
    """Everything about a training configuration that can be told without a model. Raises UserError."""
    check_options(cfg)
    if is_to_be_found(cfg) and not cfg.trajectories.get("images"):
        raise UserError(f"concept={AUTO} is found in pictures: give images=folder/ beside it, or name the concept")
    check_lora(cfg.lora.rank, cfg.lora.alpha, cfg.model.quantize, spare=cfg.spare, closed_form=cfg.closed_form)
    require_at_least(cfg, grid=0, grid_every=0, curve_every=0, checkpoint_every=1, checkpoint_minutes=0.0)
    if cfg.stop is not None:
        require_one_of(cfg.stop, "stop", ("auto",))
        if not cfg.curve_every:
            raise UserError("stop=auto needs curve_every=…: how many steps lie between two looks, for example 10")
    if cfg.evaluate not in (True, False, "long"):
        raise UserError(f"evaluate={cfg.evaluate} must be true, false or long")
    if cfg.evaluate == "long" and cfg.model.name != "emoji":
        raise UserError(f"evaluate=long is for the embedded model: of {cfg.model.name} python -m esd.evaluate draws more")
    require_one_of(cfg.objective, "objective", ("kept-erased", "erased", "kept"))
    require_one_of(cfg.model.dtype, "model.dtype", DTYPES)
    require_one_of(cfg.logger.name, "logger.name", ("wandb", "csv", "none"))
    for group in ("layers", "trajectories"):
        if not cfg[group].get("name"):
            raise UserError(f"{group}.name is missing: say what records and reports are to call it")
    if cfg.trainer.get("accumulate_grad_batches", 1) != 1:  # a step's walks stand where the next step's draws say
        raise UserError("trainer.accumulate_grad_batches must be 1: give batch=… for more examples a step")
    require_at_least(cfg.robust, "robust.", share=0.0, inner=1)
