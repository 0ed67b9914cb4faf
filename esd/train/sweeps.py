"""Sweeps: what failed is written down and listed, and what is finished is not done again."""

from __future__ import annotations

import atexit
import json
import shlex
import traceback
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from esd import UserError
from esd.command.entry import error_line
from esd.command.words import command_line, hydra_literal, quote_free_text
from esd.files import new_folder

MULTIRUN = Path("outputs/multirun")


class Outcomes(Callback):
    """Hydra's callback (conf/train.yaml): a failed run leaves error.txt, and a sweep ends with a list of those that failed.

    The runs of a sweep are independent: Hydra's launchers go on after one that failed, and raise its error at the end.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.register(print_summary, Path(config.hydra.sweep.dir))  # Hydra's own last call is left out where a run failed

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        file = Path(config.hydra.runtime.output_dir) / "error.txt"
        if job_return.status != JobStatus.FAILED:
            file.unlink(missing_ok=True)
            return
        error = job_return._return_value  # the public attribute raises it
        text = error_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error_line(error)}"
        file.write_text("\n".join([text, *traceback.format_exception(error)]), encoding="utf-8")


def print_summary(folder: Path) -> None:
    """Says how a sweep ended, where it began at all."""
    if not folder.is_dir():
        return
    failed = sorted(folder.glob("*/error.txt"))
    ended = len(list(folder.glob("*/metrics.json")))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{ended} runs ended, {len(failed)} failed, in {folder}")
    for file in failed:
        console.print(f"  {file.parent.name}: {file.read_text(encoding='utf-8').splitlines()[0]}")
    console.print(f"Next: {command_line('esd.report', str(folder))}")


def finished_metrics(folder: Path, task: list[str]) -> dict | None:
    """The metrics.json of the run that this folder holds, if it is the same run and it ended: then it is not run again."""
    file = folder / "metrics.json"
    if not file.is_file():
        return None
    metrics = json.loads(file.read_text(encoding="utf-8"))
    typed = shlex.split(metrics.get("record", {}).get("command", ""))[3:]  # after python -m esd.train
    before = [quote_free_text(argument, False) for argument in typed]
    asked = [quote_free_text(argument, False) for argument in task]
    return metrics if without_resume(before) == without_resume(asked) else None


def without_resume(task: list[str]) -> list[str]:
    """A run's options, without the one that says to go on."""
    return sorted(argument for argument in task if not argument.lstrip("+").startswith("resume="))


def with_sweep_folder(arguments: list[str]) -> list[str]:
    """A sweep's arguments with its folder fixed, for launchers compose the configuration again in each process, where a
    fresh folder would be another one.

    `-m … resume=true`: the newest sweep with the same options goes on in its own folder. `-m resume=<its folder>`: that
    sweep's own options, too. Raises UserError where that is no sweep.
    """
    if any(argument.startswith(("hydra.sweep.dir=", "--help", "--cfg")) for argument in arguments):
        return arguments
    where = next((argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")), "null")
    wanted = without_resume(
        [quote_free_text(argument, True) for argument in arguments if not argument.startswith(("-", "hydra.", "hydra/"))]
    )
    known = {"null": [], "true": sorted(MULTIRUN.glob("*/*/multirun.yaml"))}.get(where, [Path(where) / "multirun.yaml"])
    for file in reversed(known):
        if not file.is_file():
            raise UserError(f"resume={where} is no sweep's folder: it has no multirun.yaml")
        try:
            task = OmegaConf.to_container(OmegaConf.load(file).hydra.overrides.task)
        except (OmegaConfBaseException, yaml.YAMLError, AttributeError) as error:  # killed while Hydra wrote it
            if where == "true":
                continue
            raise UserError(f"{file} is damaged: give the sweep's options again, with hydra.sweep.dir='{where}'") from error
        if where != "true" or without_resume(task) == wanted:
            rest = [argument for argument in arguments if not argument.startswith(("-m", "--multirun", "resume="))]
            its = [option for option in task if where != "true" and not option.startswith("resume=")]
            return [
                "-m",
                *its,
                *rest,
                "resume=true",
                f"hydra.sweep.dir={hydra_literal(str(file.parent))}",
            ]  # Hydra takes flags first
    now = datetime.now()
    return [*arguments, f"hydra.sweep.dir='{new_folder(f'{MULTIRUN}/{now:%Y-%m-%d}', f'{now:%H-%M-%S}')}'"]
