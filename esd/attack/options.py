"""The options of an attack, with their types, and the attacks that a configuration names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import get_class
from omegaconf import MISSING, DictConfig, OmegaConf

from esd import UserError
from esd.command.checks import one_text, option_errors, require_at_least, require_one_of, texts
from esd.command.entry import CONF
from esd.command.model import ACCELERATORS

QUICK = ("inversion", "inversion-1", "finetune", "completion")
BUDGETS = ("laptop", "published")


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
    rows: list[str] = field(default_factory=list)
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
                    require_one_of(name, "attacks", ("quick", "all", *shipped()))
            made.append(f"attack=[{','.join(names)}]")
        made.append(argument)
    return made


def check_attack_options(cfg: DictConfig) -> None:
    """Everything about an attack's configuration that can be told without a model. Raises UserError."""
    texts(cfg.edit, "edit")
    require_one_of(cfg.budget, "budget", BUDGETS)
    require_at_least(cfg, seeds=1, pictures=1, sampling_steps=2, guidance=0.0)
    from esd.attack.rows import ROWS
    from esd.sample.sampling import SAMPLERS

    require_one_of(cfg.sampler, "sampler", SAMPLERS)
    require_one_of(cfg.accelerator, "accelerator", ACCELERATORS)
    require_one_of(str(cfg.precision), "precision", ("32-true", "bf16-mixed"))
    for row in cfg.rows:
        require_one_of(row, "rows", ROWS)
    if cfg.images is not None and not Path(one_text(cfg.images, "images")).expanduser().is_dir():
        raise UserError(f"images={cfg.images} is no folder: give a folder with pictures of the concept")
    if cfg.model.name == "emoji" and (cfg.images is not None or cfg.judge is not None or cfg.kept is not None):
        raise UserError("images, judge and kept are for other models: the embedded one has its art, its judge and its objects")


def attacks_of(cfg: DictConfig) -> dict[str, tuple[object, dict]]:
    """name → (the attack, its settings as they are recorded). Raises UserError for an option that an attack has not."""
    found = {}
    for name, node in cfg.attack.items():
        options = OmegaConf.to_container(node, resolve=True)
        presets = {budget: options.pop(budget, None) for budget in BUDGETS}
        if presets[cfg.budget] is None:
            raise UserError(f"attack={name} has no budget={cfg.budget}: give it in its YAML")
        options |= presets[cfg.budget]
        for option, value in options.items():
            each = value if isinstance(value, list) else [value]
            if option in ("steps", "batch", "tokens", "tries", "limit", "population", "generations", "draws", "pictures"):
                for one in each:
                    require_at_least({option: one}, f"attack.{name}.", **{option: 1})
        settings = dict(options)
        with option_errors(f"attack={name}"):
            found[name] = (get_class(options.pop("_target_"))(**options), settings)
    if not found:
        raise UserError("attacks= names none: give quick, all, or a [list] of conf/attack/")
    return found
