"""python -m esd.evaluate edit=…: is it gone, is the rest intact. See conf/evaluate.yaml for the options."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import MISSING, DictConfig, OmegaConf

from esd.command import Mistake, command
from esd.config import least, made_of, one_text, texts


@dataclass
class Evaluate:
    """The options' types; the groups (model, protocol) are open nodes."""

    edit: Any = MISSING
    concept: Any = None
    negative: bool = False
    sampling_steps: int = 30
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
    """The configured protocol. Raises Mistake for an option that it has not, or that is missing or of another kind."""
    options = OmegaConf.to_container(cfg.protocol, resolve=True, throw_on_missing=True)
    lows = {"pictures": 1, "kept": 0, "limit": 1, "seed": 0, "guidance": 0.0}
    least(options, "protocol.", **{name: low for name, low in lows.items() if options.get(name) is not None})
    for name in ("csv", "real"):
        if options.get(name) is not None:
            options[name] = one_text(options[name], f"protocol.{name}")
    with made_of("protocol"):
        return get_class(options.pop("_target_"))(**options)


@command("evaluate")
def main(cfg: DictConfig) -> None:
    least(cfg, sampling_steps=1, batch=1, devices=1)
    paths = texts(cfg.edit, "edit")
    concepts = texts(cfg.concept, "concept") if cfg.concept else []

    from esd.quiet import quiet

    quiet()
    from esd.candidates import listed

    protocol = build(cfg)
    found = listed(paths, concepts, cfg.negative)
    for candidate in found if protocol.concept_needed else ():
        if not candidate.concepts:
            raise Mistake(f"edit={candidate.path} does not say what was erased: give it as concept=…")
    from esd.evaluation import evaluate

    typed = shlex.join(["python", "-m", "esd.evaluate", *HydraConfig.get().overrides.task])
    metrics, folder = evaluate(cfg, protocol, found, typed)
    if cfg.log:
        from esd.evaluation_log import log

        log(cfg, metrics, [candidate.name for candidate in found], folder)


if __name__ == "__main__":
    main()
