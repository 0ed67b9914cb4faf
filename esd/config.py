"""The options of training, with their types: what a wrong value is checked against before anything heavy is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig

from esd.command import Mistake


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
    """One text, or a list of them, as a list. Raises Mistake where one is empty or there is none."""
    parts = list(value) if isinstance(value, list | tuple | ListConfig) else [value]
    cleaned = [str(part).strip() for part in parts if part is not None]
    if not cleaned or not all(cleaned):
        raise Mistake(f"{option} is empty: name what to erase, for example {option}=pizza or {option}='[Van Gogh, Monet]'")
    return cleaned


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
    lows = {"steps": 1, "batch": 1, "sampling_steps": 1, "preserve_batch": 0, "seed": 0, "grid_every": 0, "checkpoint_every": 1}
    for name, low in lows.items():
        if cfg[name] < low:
            raise Mistake(f"{name}={cfg[name]} is too small: {low} or more")
    for name in ("eta", "guidance", "lr", "preserve_weight", "checkpoint_minutes"):
        if not math.isfinite(cfg[name]) or cfg[name] < 0:
            raise Mistake(f"{name}={cfg[name]} must be a finite number, 0 or more")
    if cfg.lr == 0:
        raise Mistake("lr=0 trains nothing: for example lr=1e-5")
    if cfg.objective not in ("kept-erased", "erased", "kept"):
        raise Mistake(f"objective={cfg.objective} is unknown: kept-erased, erased or kept")
