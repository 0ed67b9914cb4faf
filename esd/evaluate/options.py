"""The options of evaluation, with their types, and the configured protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import get_class
from omegaconf import MISSING, DictConfig, OmegaConf

from esd.command.checks import one_text, option_errors, require_at_least


@dataclass
class Evaluate:
    """The options' types; the groups (model, protocol) are open nodes."""

    edit: Any = MISSING
    concept: Any = None
    against: Any = None
    negative: bool = False
    allow_pickle: bool = False
    sampling_steps: int = 30
    sampler: str = "own"
    batch: int = 32
    devices: int = 1
    accelerator: str = "auto"
    precision: Any = "32-true"
    out: str | None = None
    log: bool = False
    project: str = "esd"
    model: Any = MISSING
    protocol: Any = MISSING


ConfigStore.instance().store(name="evaluate_schema", node=Evaluate)


def build(cfg: DictConfig):
    """The configured protocol. Raises UserError for an option that it has not, or that is missing or of another kind."""
    options = OmegaConf.to_container(cfg.protocol, resolve=True, throw_on_missing=True)
    lows = {"pictures": 1, "kept": 0, "limit": 1, "seed": 0, "guidance": 0.0}
    require_at_least(options, "protocol.", **{name: low for name, low in lows.items() if options.get(name) is not None})
    for name in ("csv", "real"):
        if options.get(name) is not None:
            options[name] = one_text(options[name], f"protocol.{name}")
    with option_errors("protocol"):
        return get_class(options.pop("_target_"))(**options)
