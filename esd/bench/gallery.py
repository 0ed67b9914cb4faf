"""python -m esd.bench.gallery: the erasures of the results page, each by the command beside its figures. About ten minutes.

Runs every command of CASES as a person would type it, copies its before/after grid to outputs/gallery/<name>.png, keeps
what the runs measured in metrics.json there, and leaves its table for the results page. With names as arguments, only those
are run again.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from esd.command.entry import ArgumentParser
from esd.metrics.counts import format_lost
from esd.report.result import GALLERY, write_result

CASES = {
    "pizza": "concept=pizza",
    "owl": "concept=owl",
    "guitar-u": "concept=guitar experiment=emoji/esd-u",
    "rocket-u": "concept=rocket experiment=emoji/esd-u",
    "weapon": "concept=weapon",
    "nudity": "concept=nudity eta=1.0",
    "openmoji": "concept=openmoji",
    "several": 'concept="pizza,cat,guitar"',
    "attribute": "concept=bomb erase_from=weapon",
}

COLUMNS = [
    "python -m esd.train …", "seen, by name", "in a style", "in other words", "look-alikes right", "others right",
    "other styles right", "lost", "training",
]  # fmt: skip
TEXT = """Each command is run as a person types it; base and edit are judged from the same noise, by the short form of the \
emoji protocol. What is not given was chosen on cat, bus, banana, trumpet, vehicle and fluent, but for ESD-u's rate and \
steps (on dog, camera, bath and pistol)."""


def run(name: str, options: str) -> dict:
    """One case, in a folder of its own; leaves its picture and returns its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "esd.train", *shlex.split(options), f"hydra.run.dir={folder}/run", "logger=none"]
        subprocess.run(command, check=True)
        GALLERY.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"{folder}/run/grid.png", GALLERY / f"{name}.png")
        return json.loads(Path(f"{folder}/run/metrics.json").read_text())


def cells_of(options: str, metrics: dict) -> list[str]:
    """The case as a row of the table."""

    def percent(group: str) -> str:
        if group not in metrics["edit"]:
            return ""
        before, after = metrics["base"][group], metrics["edit"][group]
        return f"{100 * before['rate']:.0f} → {100 * after['rate']:.1f} % of {after['of']}"

    groups = ("erased", "erased_styled", "erased_words", "lookalikes", "kept", "kept_styles")
    cells = [f"`{options}`", *(percent(group) for group in groups)]
    if "kept_source" in metrics["edit"]:  # erased from another text: what must be left of it
        cells[2] = f"(the rest: {percent('kept_source')})"
    return [*cells, format_lost(metrics["lost"]) or "none", f"{metrics['training_seconds']:.0f} s"]


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.bench.gallery", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these, of {', '.join(CASES)}")
    names = parser.parse_args().names
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"{unknown[0]} is none of {', '.join(CASES)}")
    found = GALLERY / "metrics.json"
    metrics = json.loads(found.read_text()) if found.is_file() else {}
    for name in names or CASES:
        metrics[name] = run(name, CASES[name])
        found.write_text(json.dumps(metrics, indent=1) + "\n")
    known = [name for name in CASES if name in metrics]
    rows = [cells_of(CASES[name], metrics[name]) for name in known]
    write_result(
        "gallery", title="Nine erasures of the embedded model", text=TEXT, command="python -m esd.bench.gallery",
        columns=COLUMNS, rows=rows, makers=["esd/bench/gallery.py"], pictures=[[f"{name}.png", CASES[name]] for name in known],
    )  # fmt: skip
    for cells in rows:
        print(" | ".join(cells))


if __name__ == "__main__":
    main()
