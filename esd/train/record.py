"""What a run notes down of itself: in its edit's header, and of what torch cannot repeat."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from esd.command.words import command_line
from esd.edits.edit import Edit
from esd.erasing.run import Run


def edit_of(run: Run, cfg: DictConfig, not_read: dict[str, str]) -> Edit:
    """The run's edit, which says by which command and from which configuration it was made."""
    asked = OmegaConf.to_container(cfg, resolve=True)
    return run.edit(
        base=cfg.model.name if cfg.model.path is None else str(cfg.model.path),
        preserve=asked["preserve"],
        optimizer=asked["optimizer"],
        schedule=asked["schedule"],
        not_read=not_read,
        command=command_line("esd.train", *own_folders(), *without_resume(HydraConfig.get().overrides.task)),
    )


def own_folders() -> list[str]:
    """The arguments that name configuration folders of one's own, which Hydra does not count among a run's options."""
    hydra = HydraConfig.get()
    given = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    folders = [f"--config-dir={os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path}" for path in given]
    return folders + [option for option in hydra.overrides.hydra if option.startswith("hydra.searchpath=")]


def without_resume(task: Iterable[str]) -> list[str]:
    """What a run was asked for, without what it goes on from."""
    return [option for option in task if not option.startswith("resume=")]


@contextmanager
def collect_nondeterministic() -> Iterator[list[str]]:
    """The operations that torch says it has no deterministic algorithm for, collected; other warnings are shown as ever."""
    found: list[str] = []
    shown = warnings.showwarning

    def show(message, *args, **kwargs) -> None:
        text = str(message)
        if "does not have a deterministic implementation" in text:
            found.append(text.split()[0])
        else:
            shown(message, *args, **kwargs)

    warnings.showwarning = show
    try:
        yield found
    finally:
        warnings.showwarning = shown
