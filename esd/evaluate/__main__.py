"""python -m esd.evaluate edit=…: is it gone, is the rest intact. See conf/evaluate.yaml for the options."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from esd import UserError
from esd.command.checks import refuse_quantized, require_at_least, texts
from esd.command.entry import command
from esd.command.words import command_line
from esd.evaluate.options import build


@command("evaluate")
def main(cfg: DictConfig) -> None:
    require_at_least(cfg, sampling_steps=1, batch=1, devices=1)
    refuse_quantized(cfg.model)
    paths = texts(cfg.edit, "edit")
    concepts = texts(cfg.concept, "concept") if cfg.concept else []

    from esd.models.quiet import silence_libraries

    silence_libraries()
    from esd.evaluate.variants import asked_against, variants_of

    found = variants_of(
        paths, concepts, asked_against(cfg), cfg.allow_pickle
    )  # first: a protocol may have to fetch its prompts
    protocol = build(cfg)
    for variant in found if protocol.concept_needed else ():
        if not variant.concepts:
            raise UserError(f"edit={variant.path} does not say what was erased: give it as concept=…")
    if getattr(protocol, "templates", None) == ():  # a concept is asked for in the words that it was trained through
        ways = (way for variant in found for way in variant.record.get("templates", ()))
        protocol.templates = tuple(dict.fromkeys(ways))
    from esd.evaluate.evaluation import evaluate

    typed = command_line("esd.evaluate", *HydraConfig.get().overrides.task)
    metrics, folder = evaluate(cfg, protocol, found, typed)
    if cfg.log:
        from esd.evaluate.wandb_log import log

        log(cfg, metrics, [variant.name for variant in found], folder)


if __name__ == "__main__":
    main()
