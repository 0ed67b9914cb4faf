"""The options of an attack, with their types, and the attacks that a configuration names."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import get_class
from omegaconf import MISSING, DictConfig, OmegaConf

from esd import UserError
from esd.attack.tries import ROWS
from esd.command.checks import one_text, option_errors, refuse_quantized, require_at_least, require_one_of, texts
from esd.command.entry import CONF
from esd.command.model import ACCELERATORS
from esd.models import SAMPLERS

QUICK = ("inversion", "inversion-1", "finetune", "completion")
BUDGETS = ("laptop", "published")
# What an attack's options are held against, whichever attack has them: what numbers are counts; what must not be an empty list.
COUNTS = ("steps", "batch", "tokens", "vectors", "tries", "limit", "population", "generations", "draws", "pictures")
FILLED = ("steps", "generations", "shares", "etas", "scales")
PARTS = ("needs", "check", "draws", "finds", "find", "forwards")  # of an attack: esd/attack/target.py


@dataclass
class Attack:
    """python -m esd.attack. The groups (model, attack) are open nodes."""

    edit: Any = MISSING
    attacks: Any = "quick"
    budget: str = "laptop"
    concept: Any = None
    allow_pickle: bool = False
    seeds: int = 1
    pictures: int = 32
    rows: Any = None
    against: Any = None
    twin: str | None = "auto"
    images: str | None = None
    judge: Any = None
    kept: str | None = None
    guidance: float = 3.0
    sampling_steps: int = 20
    sampler: str = "own"
    accelerator: str = "auto"
    precision: Any = "32-true"
    out: str | None = None
    log: bool = False
    project: str = "esd"
    model: Any = MISSING
    attack: Any = MISSING


ConfigStore.instance().store(name="attack_schema", node=Attack)


def shipped() -> list[str]:
    """The attacks of conf/attack/, by name."""
    return sorted(path.stem for path in (CONF / "attack").glob("*.yaml"))


def group_arguments(arguments: list[str]) -> list[str]:
    """attacks=quick|all|[names] as Hydra's choice of the group: attack=[names]."""
    made, own = [], any(argument.startswith(("--config-dir", "-cd", "hydra.searchpath")) for argument in arguments)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key == "attacks" and equals:
            names = {"quick": QUICK, "all": shipped()}.get(value) or [n.strip(" '\"") for n in value.strip("[]").split(",")]
            if not all(names):
                raise UserError("attacks= names none: give quick, all, or a [list] of conf/attack/")
            if not own:  # who brings a folder may have attacks of their own in it
                for name in names:
                    if value.startswith("[") and name in ("quick", "all"):
                        raise UserError(f"attacks={name} stands alone, or give a [list] of {', '.join(shipped())}")
                    require_one_of(name, "attacks", ("quick", "all", *shipped()))
            made.append(f"attack=[{','.join(names)}]")
        made.append(argument)
    return made


def check_attack_options(cfg: DictConfig) -> None:
    """Everything about an attack's configuration that can be told without a model. Raises UserError."""
    texts(cfg.edit, "edit")
    require_one_of(cfg.budget, "budget", BUDGETS)
    require_at_least(cfg, seeds=1, pictures=1, sampling_steps=2, guidance=0.0)
    require_one_of(cfg.sampler, "sampler", SAMPLERS)
    require_one_of(cfg.accelerator, "accelerator", ACCELERATORS)
    refuse_quantized(cfg.model)
    for row in rows_of(cfg):
        require_one_of(row, "rows", ROWS)
    if cfg.images is not None and not Path(one_text(cfg.images, "images")).expanduser().is_dir():
        raise UserError(f"images={cfg.images} is no folder: give a folder with pictures of the concept")
    if cfg.model.name == "emoji" and (cfg.images is not None or cfg.judge is not None or cfg.kept is not None):
        raise UserError("images, judge and kept are for other models: the embedded one has its art, its judge and its objects")
    require_one_of(str(cfg.precision), "precision", ("32-true", "bf16-mixed"))  # last: what suits the device asks torch


def rows_of(cfg: DictConfig) -> list[str]:
    """The rows that are asked for, each once."""
    return list(dict.fromkeys(texts(cfg.rows, "rows"))) if cfg.rows else list(ROWS)


def attacks_of(cfg: DictConfig) -> dict[str, tuple[object, dict]]:
    """name → (the attack, its settings as they are recorded). Raises UserError for an option that an attack has not, or of
    another kind or range, and for a class that is no attack."""
    found = {}
    for name, node in cfg.attack.items():
        if not isinstance(node, DictConfig):
            raise UserError(f"attack.{name} is no attack: an own attack's file begins with the line '# @package attack.NAME'")
        if "_target_" not in node:
            raise UserError(f"attack={name} has no _target_: give the attack's class")
        options = OmegaConf.to_container(node, resolve=True)
        presets = {budget: options.pop(budget, None) for budget in BUDGETS}
        if presets[cfg.budget] is None:
            raise UserError(f"attack={name} has no budget={cfg.budget}: give it in its YAML")
        with option_errors(f"attack={name}"):
            kind = get_class(options.pop("_target_"))
        lists = {p.name for p in inspect.signature(kind).parameters.values() if str(p.annotation).startswith("list")}
        options |= presets[cfg.budget]
        for option, value in options.items():
            if option in lists and not isinstance(value, list):
                options[option] = value = [value]
            check_option(f"attack.{name}.{cfg.budget}." if option in presets[cfg.budget] else f"attack.{name}.", option, value)
        with option_errors(f"attack={name}"):
            its = kind(**options)
        if lacking := [part for part in PARTS if not hasattr(its, part)]:
            raise UserError(
                f"attack={name}: {kind.__name__} has no {', '.join(lacking)} (esd/attack/target.py says what they are)"
            )
        found[name] = its, {"_target_": node._target_, **options}
    if not found:
        raise UserError("attacks= names none: give quick, all, or a [list] of conf/attack/")
    return found


def check_option(prefix: str, option: str, value: object) -> None:
    """Raises UserError for an attack's option of another kind or range. prefix: of its name in the message."""
    each = value if isinstance(value, list) else [value]
    if option in FILLED and not each:
        raise UserError(f"{prefix}{option} is empty: give a number, or a [list] of them")
    for one in each:
        if option in COUNTS and not (option in ("vectors", "draws") and one is None):
            require_at_least({option: one}, prefix, **{option: 1})
        if option in ("lr", "shares", "etas", "scales", "eta", "mutation"):
            require_at_least({option: one}, prefix, **{option: 0.0})
        if (option in ("lr", "scales") and one == 0) or (option == "shares" and not 0 < one < 1):
            raise UserError(f"{prefix}{option}={one} must be above 0" + (" and below 1" if option == "shares" else ""))
