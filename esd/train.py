"""python -m esd.train concept=nudity eta=1.0: erase a concept. See conf/train.yaml for the options."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

import esd.config  # noqa: F401  (registers the options' types)
from esd import sweeps
from esd.command import Mistake, command


def resumed(arguments: list[str]) -> list[str]:
    """resume=<run folder>: that run's own options, in its own folder; options given beside it come on top."""
    if any(argument in ("-m", "--multirun") for argument in arguments):
        return sweeps.placed(arguments)
    folder = next((argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")), "")
    if not folder or folder == "null":
        return arguments
    saved = Path(folder) / ".hydra" / "overrides.yaml"
    if not saved.is_file():
        raise Mistake(f"resume={folder} is no run's folder: it has no .hydra/overrides.yaml")
    return [*OmegaConf.to_container(OmegaConf.load(saved)), *arguments, f"hydra.run.dir='{folder}'"]


@command("train", resumed)
def main(cfg: DictConfig) -> float:
    esd.config.check(cfg)
    if cfg.model.name == "emoji" and cfg.model.path is None:
        from esd.emoji.subject import subject

        for text in esd.config.texts(cfg.concept, "concept"):
            subject(text)
        for text in esd.config.texts(cfg.erase_from, "erase_from") if cfg.erase_from else []:
            subject(text, "erase_from")
    from esd.models import folder_of

    folder_of(cfg.model.path)

    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN and cfg.trainer.devices not in (1, "1"):
        raise Mistake(
            f"trainer.devices={cfg.trainer.devices} under --multirun: a sweep runs each job on one device (a launcher spreads "
            "the jobs); several devices are for single runs"
        )

    from esd.quiet import quiet

    quiet()
    from esd.run import run
    from esd.verdict import objective

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if cfg.resume and hydra.mode == RunMode.MULTIRUN and (metrics := sweeps.finished(folder, list(hydra.overrides.task))):
        return objective(metrics, cfg.objective)
    return run(cfg, folder)


if __name__ == "__main__":
    main()
