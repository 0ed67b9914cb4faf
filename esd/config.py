"""The options of training, with their types: what a wrong value is checked against before anything heavy is imported."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, ListConfig

from esd.command import Mistake, one_line


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
    seed: int = 0
    preserve: Any = None
    preserve_weight: float = 1.0
    preserve_batch: int = 0
    grid_every: int = 0
    checkpoint_every: int = 100
    checkpoint_minutes: float = 10.0
    resume: str | None = None
    evaluate: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False
    objective: str = "kept-erased"
    model: Any = MISSING
    layers: Any = MISSING
    trajectories: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING


ConfigStore.instance().store(name="train_schema", node=Train)


def texts(value: object, option: str) -> list[str]:
    """One text, or a list of them, as a list. Raises Mistake where one is empty or no text, or there is none."""
    parts = list(value) if isinstance(value, list | tuple | ListConfig) else [value]
    if any(part is None or isinstance(part, list | dict | ListConfig | DictConfig) for part in parts):
        raise Mistake(f"{option}={value} must be a text, or a [list] of texts")
    cleaned = [str(part).strip() for part in parts]
    if not cleaned or not all(cleaned):
        raise Mistake(f"{option} is empty: give a text, or a [list] of texts")
    if any("\udc80" <= letter <= "\udcff" for part in cleaned for letter in part):  # so Python keeps what it cannot decode
        raise Mistake(f"{option} is no text in UTF-8: {ascii(cleaned)}")
    return cleaned


def one_text(value: object, option: str) -> str:
    """Raises Mistake where there is none, or a list of several."""
    found = texts(value, option)
    if len(found) > 1:
        raise Mistake(f"{option}={value} must be one text, and is {len(found)}")
    return found[0]


def one_of(value: object, option: str, known: Iterable[str]) -> None:
    """Raises Mistake for what is unknown."""
    if value not in known:
        raise Mistake(f"{option}={value} is unknown: {', '.join(known)}")


def least(cfg: Mapping, prefix: str = "", **lows: float) -> None:
    """Each named option is a number, and no less than this: a whole one where this is. Raises Mistake.

    prefix: of the options' names in the message. Whole numbers stay below 2⁶², so that a seed of noise plus a count is one.
    """
    for name, low in lows.items():
        value = cfg[name]
        kinds, what, high = (int, "whole", 2**62) if isinstance(low, int) else (int | float, "finite", math.inf)
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value < high:
            raise Mistake(f"{prefix}{name}={value} must be a {what} number, {low:g} or more")


@contextlib.contextmanager
def made_of(options: str) -> Iterator[None]:
    """Around what only builds an object from options: whatever it raises is about them, and becomes a Mistake."""
    try:
        yield
    except Mistake:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
        raise Mistake(f"{options}: {one_line(cause)}") from error


def check(cfg: DictConfig) -> None:
    """Everything about a training configuration that can be told without a model. Raises Mistake."""
    concepts = texts(cfg.concept, "concept")
    if cfg.erase_from:
        sources = texts(cfg.erase_from, "erase_from")
        if len(sources) not in (1, len(concepts)):
            raise Mistake(
                f"concept has {len(concepts)} entries and erase_from {len(sources)}: they pair up, "
                f"so give {len(concepts)}, or one that serves all"
            )
    for template in cfg.templates or [""]:
        if template.count("{}") != 1:
            raise Mistake(f"templates: '{template}' needs one {{}} where the concept goes, for example 'a painting by {{}}'")
    least(cfg, steps=1, batch=1, sampling_steps=1, preserve_batch=0, seed=0, grid_every=0, checkpoint_every=1)
    least(cfg, eta=0.0, guidance=0.0, lr=0.0, preserve_weight=0.0, checkpoint_minutes=0.0)
    if cfg.lr == 0:
        raise Mistake("lr=0 trains nothing: for example lr=1e-5")
    one_of(cfg.objective, "objective", ("kept-erased", "erased", "kept"))
    one_of(cfg.logger.name, "logger.name", ("wandb", "csv", "none"))
    one_of(cfg.trajectories.name, "trajectories.name", ("student", "pool", "cache"))
    if cfg.trajectories.name == "pool":
        one_of(cfg.trajectories.walker, "trajectories.walker", ("frozen", "student"))
    if cfg.trajectories.name == "cache":
        least(cfg.trajectories, "trajectories.", walks=1, chunk=1, seed=0, limit=0.0)
        one_of(cfg.trajectories.dtype, "trajectories.dtype", ("float16", "bfloat16", "float32"))
