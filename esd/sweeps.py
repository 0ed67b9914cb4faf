"""Sweeps: what failed is written down and listed, and what is finished is not done again."""

from __future__ import annotations

import atexit
import json
import shlex
import traceback
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from esd.command import Mistake, one_line

PARENT = Path("outputs/multirun")


class Outcomes(Callback):
    """Hydra's callback (conf/train.yaml): a failed run leaves error.txt, and a sweep ends with a list of those that failed.

    The runs of a sweep are independent: Hydra's launchers go on after one that failed, and raise its error at the end.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.register(summary, Path(config.hydra.sweep.dir))  # Hydra's own last call is left out where a run failed

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        file = Path(config.hydra.runtime.output_dir) / "error.txt"
        if job_return.status != JobStatus.FAILED:
            file.unlink(missing_ok=True)
            return
        error = job_return._return_value  # the public attribute raises it
        text = one_line(error) if isinstance(error, Mistake) else f"{type(error).__name__}: {one_line(error)}"
        file.write_text("\n".join([text, *traceback.format_exception(error)]), encoding="utf-8")


def summary(folder: Path) -> None:
    """Says how a sweep ended."""
    failed = sorted(folder.glob("*/error.txt"))
    ended = len(list(folder.glob("*/metrics.json")))
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{ended} runs ended, {len(failed)} failed, in {folder}")
    for file in failed:
        console.print(f"  {file.parent.name}: {file.read_text(encoding='utf-8').splitlines()[0]}", markup=False)
    console.print(f"Next: python -m esd.report {folder}")


def finished(folder: Path, task: list[str]) -> dict | None:
    """The metrics.json of the run that this folder holds, if it is the same run and it ended: then it is not run again."""
    file = folder / "metrics.json"
    if not file.is_file():
        return None
    metrics = json.loads(file.read_text(encoding="utf-8"))
    before = shlex.split(metrics.get("record", {}).get("command", ""))[3:]  # after python -m esd.train
    return metrics if own(before) == own(task) else None


def own(task: list[str]) -> list[str]:
    """A run's options, without the one that says to go on."""
    return sorted(argument for argument in task if not argument.lstrip("+").startswith("resume="))


def again(arguments: list[str]) -> list[str]:
    """`-m … resume=true`: the newest sweep with the same options goes on in its own folder. `-m resume=<its folder>`: that
    sweep's own options, too. Raises Mistake where there is no such sweep."""
    where = next(argument.partition("=")[2] for argument in arguments if argument.startswith("resume="))
    wanted = own([argument for argument in arguments if not argument.startswith(("-", "hydra.", "hydra/"))])
    candidates = sorted(PARENT.glob("*/*/multirun.yaml")) if where == "true" else [Path(where) / "multirun.yaml"]
    for file in reversed(candidates):
        if not file.is_file():
            raise Mistake(f"resume={where} is no sweep's folder: it has no multirun.yaml")
        task = OmegaConf.to_container(OmegaConf.load(file).hydra.overrides.task)
        if where != "true" or own(task) == wanted:
            rest = [argument for argument in arguments if not argument.startswith("resume=")]
            options = [*rest, "resume=true"] if where == "true" else [*own(task), *rest, "resume=true"]
            return [*options, f"hydra.sweep.dir='{file.parent}'"]
    return arguments  # none yet: this is the first
