"""Sweeps: what failed is written down and listed, and what is finished is not done again."""

from __future__ import annotations

import atexit
import math
import traceback
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from esd import UserError
from esd.command.entry import error_line
from esd.command.words import command_line, hydra_literal, quote_free_text
from esd.files import new_folder, read_json
from esd.metrics.counts import format_figure, rate_figure
from esd.train.resume import check_changeable, composed_from, each_once, edit_options, named, split_flags, without_resume

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
    print_table(folder, console)
    console.print(f"{ended} runs ended, {len(failed)} failed, in {folder}")
    for file in failed:
        console.print(f"  {file.parent.name}: {file.read_text(encoding='utf-8').splitlines()[0]}")
    console.print(f"Next: {command_line('esd.report', str(folder))}")


def place_in_sweep() -> tuple[int, int] | None:
    """Which run of its sweep this is, from 1, and how many it has; None where it is none, or nobody knows.

    From the sweep's own options, which lie in its folder: whatever launcher starts this run, and in whichever process.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:  # asked first: to read the sweep's folder is to make it
        return None
    file = Path(hydra.sweep.dir) / "multirun.yaml"
    if not file.is_file():
        return None
    of = OmegaConf.load(file).hydra
    runs = of.sweeper.get("n_trials")  # a search's; without it Hydra's own sweeper runs every combination
    if runs is None:
        asked = OverridesParser.create().parse_overrides([*of.overrides.task, *sweeper_params(of)])
        runs = math.prod(len(list(option.sweep_string_iterator())) for option in asked if option.is_sweep_override())
    return (int(hydra.job.num) + 1, int(runs)) if int(hydra.job.num) < int(runs) else None


def sweeper_params(hydra: DictConfig) -> list[str]:
    """The options that a configuration sweeps by itself (hydra.sweeper.params), but for those that were typed."""
    typed = {option.partition("=")[0].lstrip("+") for option in hydra.overrides.task}
    return [f"{name}={value}" for name, value in (hydra.sweeper.get("params") or {}).items() if name not in typed]


def print_table(folder: Path, console: Console) -> None:
    """A line for each run of the sweep that was judged: what it was asked for, and its figures."""
    table = Table("run", "seen", "others right", "lost", "seconds", box=None, header_style="dim")
    files = sorted(folder.glob("*/metrics.json"), key=by_number)
    for run, metrics in ((file.parent, read_json(file)) for file in files):
        if "edit" in metrics:
            seen = [figure for group, figure in metrics["edit"].items() if group.startswith("erased")]
            seen = rate_figure(*(sum(figure[part] for figure in seen) for part in ("hits", "of")))
            lost = ", ".join(it["name"] for it in metrics.get("lost", []))
            figures = (*(format_figure(figure) for figure in (seen, metrics["edit"]["kept"])), lost)
        else:
            figures = ("not judged", "", "")
        table.add_row(escape(run.name), *figures, f"{metrics.get('training_seconds', 0):.0f}")
    if files:
        console.print(table)


def by_number(file: Path) -> tuple[int, str]:
    """Runs in the order in which they were started: 2-pizza before 10-pizza."""
    number = file.parent.name.partition("-")[0]
    return int(number) if number.isdigit() else 0, file.parent.name


def with_sweep_folder(arguments: list[str]) -> list[str]:
    """A sweep's arguments with its folder fixed, for launchers compose the configuration again in each process, where a
    fresh folder would be another one.

    `-m … resume=true`: the newest sweep with the same edits goes on in its own folder. `-m resume=<its folder>`: that
    sweep's own options, too. Raises UserError where that is no sweep, or an option would change its edits.
    """
    if any(argument.startswith(("hydra.sweep.dir=", "--help", "--cfg")) for argument in arguments):
        return arguments
    where = next((argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")), "null")
    flags, asked = split_flags(argument for argument in arguments if named(argument) != "resume")
    asked = [quote_free_text(option, True) for option in asked]
    known = {"null": [], "true": sorted(MULTIRUN.glob("*/*/multirun.yaml"))}.get(where, [Path(where) / "multirun.yaml"])
    for file in reversed(known):
        if not file.is_file():
            raise UserError(f"resume={where} is no sweep's folder: it has no multirun.yaml")
        try:
            task = without_resume(OmegaConf.to_container(OmegaConf.load(file).hydra.overrides.task))
        except (OmegaConfBaseException, yaml.YAMLError, AttributeError) as error:  # killed while Hydra wrote it
            if where == "true":
                continue
            raise UserError(f"{file} is damaged: give the sweep's options again, with hydra.sweep.dir='{where}'") from error
        if where != "true":
            check_changeable(asked, task, multirun=True)
        elif sorted(edit_options(task)) != sorted(edit_options(asked)):
            continue
        its = task if where != "true" else edit_options(task)  # in the sweep's own order, by which its runs are numbered
        options = [*composed_from(file, flags, asked), *each_once([*its, *asked]), "resume=true"]
        return [*flags, *options, f"hydra.sweep.dir={hydra_literal(str(file.parent))}"]  # Hydra takes flags first
    now = datetime.now()
    return [*arguments, f"hydra.sweep.dir='{new_folder(f'{MULTIRUN}/{now:%Y-%m-%d}', f'{now:%H-%M-%S}')}'"]
