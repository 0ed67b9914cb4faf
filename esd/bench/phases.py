"""python -m esd.bench.phases: what a person waits for, from `python -m esd.train concept=pizza` until the prompt is back.

Runs the command as it is typed, with a clock around its parts, and prints how long each takes: the median of several turns.
Before the first a run fills the cache, so that what is timed is a second run on a machine. --against names another checkout of
this repository, which is run in turn with this one; then the table is left in outputs/gallery/phases.json, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from esd.report.result import ROOT

MARKS = Path(__file__).with_name("phase_marks.py")
PHASES = (  # as they follow each other: all of them together are the whole
    "until the first line", "libraries and the model", "announcing", "training", "grids, before and after",
    "the verdict's pictures", "judging them", "the rest, to the prompt",
)  # fmt: skip


def seconds_of(found: dict[str, list[float]], whole: float) -> dict[str, float]:
    """The phases in seconds, from the marks' beginnings, ends and sums. whole: of the process."""

    def spent(phase: str) -> float:
        return found[phase][2] if phase in found else 0.0

    first = found.get("first line", found["announcing"])[0]  # older checkouts print it with the rest
    seconds = {
        "until the first line": first,
        "libraries and the model": found["announcing"][0] - first,
        "announcing": spent("announcing"),
        "training": spent("source") + spent("training") + spent("training with grids") - spent("grids within"),
        "grids, before and after": spent("grids") + spent("grids within"),
        "the verdict's pictures": spent("verdict") - spent("judging"),
        "judging them": spent("judging"),
    }
    return {**seconds, "the rest, to the prompt": whole - sum(seconds.values()), "whole": whole}


def timed_run(checkout: Path, options: Sequence[str], cache: Path) -> dict[str, float]:
    """One run of the command in this checkout: its phases in seconds. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(checkout), "ESD_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": ""}
        started = time.time()
        command = [sys.executable, "-c", MARKS.read_text(encoding="utf-8"), f"{folder}/marks.json", str(started), *options]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        whole = time.time() - started
        if done.returncode:
            raise RuntimeError(f"{checkout}: esd.train {' '.join(options)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return seconds_of(json.loads(Path(folder, "marks.json").read_text()), whole)


def measure(checkouts: dict[str, Path], options: Sequence[str], turns: int) -> dict[str, dict[str, float]]:
    """Of each checkout the median of every phase, in turn, after a run that is not counted."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as caches:
        for turn in range(turns + 1):
            for name, checkout in checkouts.items():
                seconds = timed_run(checkout, options, Path(caches, name))
                if turn:
                    found[name].append(seconds)
    return {
        name: {phase: statistics.median(turn[phase] for turn in turns) for phase in turns[0]} for name, turns in found.items()
    }


def asked(here: dict[str, float], other: dict[str, float]) -> str:
    """What was asked of this command, beside what was measured."""
    verdict = here["the verdict's pictures"] + here["judging them"]
    return (
        f"Asked: the whole at most 0.4 of the other commit's (here {here['whole'] / other['whole']:.2f}), at most 4 s until "
        f"the first line ({here['until the first line']:.1f}), a verdict that takes no longer than the training it judges "
        f"({verdict:.1f} and {here['training']:.1f} s)."
    )


def commit_of(checkout: Path) -> str:
    """The short hash of what is checked out there; its folder's name where git does not know."""
    git = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or checkout.name


def main() -> None:
    from esd.command.entry import ArgumentParser

    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="*", default=["concept=pizza"], help="of the command (concept=pizza)")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of this repository")
    parser.add_argument("--turns", type=int, default=5, help="how often each is timed (5)")
    options = parser.parse_intermixed_args()
    if options.against and not any((options.against / "esd").glob("train*")):
        parser.error(f"--against {options.against} is no checkout of this repository")
    from rich.console import Console
    from rich.table import Table

    from esd.report.result import write_result

    checkouts = {"here": ROOT} | ({commit_of(options.against): options.against.resolve()} if options.against else {})
    found = measure(checkouts, options.options, options.turns)
    table = Table(f"python -m esd.train {' '.join(options.options)}", *found, box=None)
    for phase in (*PHASES, "whole"):
        table.add_row(phase, *(f"{seconds[phase]:.1f} s" for seconds in found.values()))
    Console(highlight=False).print(table)
    if options.against:
        typed = f"python -m esd.train {' '.join(options.options)}"
        rows = [[phase, *(round(seconds[phase], 1) for seconds in found.values())] for phase in (*PHASES, "whole")]
        write_result(
            "phases", title="What a person waits for", columns=["phase", *(f"{name}, seconds" for name in found)], rows=rows,
            text=f"`{typed}` as it is typed, from the command until the prompt is back, a second run on a machine: beside the "
            f"commit {list(found)[1]}, in turn with it; medians of {options.turns}.",
            command=f"python -m esd.bench.phases --against <a checkout of {list(found)[1]}>",
            notes=[asked(*found.values())], makers=["esd/bench/phases.py", "esd/bench/phase_marks.py"],
        )  # fmt: skip


if __name__ == "__main__":
    main()
