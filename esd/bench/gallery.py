"""python -m esd.bench.gallery: the README's erasures, each by the command that stands beside its picture. About ten minutes.

Runs every command of CASES as a person would type it, copies its before/after grid to outputs/gallery/<name>.png, and
prints the README's table from what the runs measured. With names as arguments, only those.
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

GALLERY = Path("outputs/gallery")
CASES = {
    "pizza": "concept=pizza",
    "owl": "concept=owl",
    "guitar-u": "concept=guitar experiment=emoji/esd-u preserve_weight=3",
    "rocket-u": "concept=rocket experiment=emoji/esd-u preserve_weight=3",
    "weapon": "concept=weapon steps=100",
    "nudity": "concept=nudity eta=1.0 steps=100",
    "openmoji": "concept=openmoji experiment=emoji/style steps=160 eta=1.5",
    "several": 'concept="pizza,cat,guitar" steps=120 preserve=auto',
    "attribute": "concept=bomb erase_from=weapon",
}


def run(name: str, options: str) -> dict:
    """One case, in a folder of its own; leaves its picture and returns its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "esd.train", *shlex.split(options), f"hydra.run.dir={folder}/run", "logger=none"]
        subprocess.run(command, check=True)
        GALLERY.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"{folder}/run/grid.png", GALLERY / f"{name}.png")
        return json.loads(Path(f"{folder}/run/metrics.json").read_text())


def line(options: str, metrics: dict) -> str:
    """The case as a row of the README's table."""

    def percent(group: str) -> str:
        if group not in metrics["edit"]:
            return ""
        before, after = metrics["base"][group], metrics["edit"][group]
        return f"{100 * before['rate']:.0f} → {100 * after['rate']:.1f} % of {after['of']}"

    cells = [f"`{options}`", *(percent(group) for group in ("erased", "erased_styled", "kept", "kept_styles"))]
    if "kept_source" in metrics["edit"]:  # erased from another text: what must be left of it
        cells[2] = f"(the rest: {percent('kept_source')})"
    return f"| {' | '.join(cells)} | {metrics['training_seconds']:.0f} s |"


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
    print(
        "\n| python -m esd.train … | seen, by name | seen, in a style | other objects right | other styles right | training |"
    )
    print("|---|---|---|---|---|---|")
    for name in names or CASES:
        print(line(CASES[name], metrics[name]))


if __name__ == "__main__":
    main()
