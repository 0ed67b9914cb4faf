"""The attacks on edits, for the report: their table, and success over an attack's optimiser steps beside the control's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from esd import UserError
from esd.files import read_json, slug
from esd.metrics.counts import format_figure, format_interval
from esd.metrics.tables import concept_names
from esd.report import charts

EDIT, NEVER = "edit", "never"  # the rows of esd/attack/rows.py that are drawn as curves


@dataclass
class Attacked:
    """One edit under attack: a line for each attack and budget."""

    concept: str
    layers: str
    control: str
    lines: list[dict]
    grids: list[Path]
    command: str


def attacks_in(folders: Iterable[str]) -> list[Attacked]:
    """All that esd.attack left under these folders. Raises UserError for a file that is not as it writes them."""
    found = []
    for folder in dict.fromkeys(map(Path, folders)):
        for file in sorted(folder.rglob("metrics.json")):
            metrics = read_json(file)
            if "figures" not in metrics:
                continue
            try:
                found += [of_edit(file.parent, metrics, name, edit) for name, edit in metrics["edits"].items()]
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise UserError(f"{file} is not as esd.attack writes it ({type(error).__name__}: {error})") from error
    return found


def of_edit(folder: Path, metrics: dict, name: str, edit: dict) -> Attacked:
    lines = [line for line in metrics["figures"] if line["variant"] == name and EDIT in line]
    for line in lines:  # what the page shows is read here, where a fault is told in a line
        for row in (EDIT, NEVER):
            if row in line:
                format_figure(line[row]), format_interval(line[row])
        line["excess_points"] = points(line.get("excess"))
    grids = [folder / f"grid-{slug(concept)}-{slug(name, 60)}.png" for concept in edit["concept"]]
    return Attacked(
        concept_names(edit["concept"], []), edit["record"].get("layers", ""), metrics["control"], lines,
        [grid for grid in grids if grid.is_file()], metrics["command"],
    )  # fmt: skip


def points(excess: dict | None) -> str:
    """ "+53 (+38 to +69)": the difference to the control, in points."""
    if excess is None or excess["mean"] is None:
        return ""
    low, high = excess["interval"]
    return f"{100 * excess['mean']:+.0f} ({100 * low:+.0f} to {100 * high:+.0f})"


def attack_charts(found: list[Attacked]) -> list[dict]:
    """For each attack of several budgets: a curve for each edit, and one of the same attack's control."""
    curves: dict[str, list[tuple[Attacked, str, list[tuple[float, float]]]]] = {}
    for its in found:
        for attack in dict.fromkeys(line["attack"] for line in its.lines):
            lines = sorted((line for line in its.lines if line["attack"] == attack), key=lambda line: line["steps"])
            for row in (EDIT, NEVER):
                seen = [(line["steps"], line[row]["rate"]) for line in lines if row in line and line["steps"]]
                if len(seen) > 1:
                    curves.setdefault(attack, []).append((its, row, seen))
    made = []
    for attack, lines in curves.items():
        x, y = charts.axes([0, *(step for *_, seen in lines for step, _ in seen)], [0, 1])
        drawn = [
            {"layers": its.layers, "control": row == NEVER, "path": charts.path([(x.at(a), y.at(b)) for a, b in seen]),
             "title": f"{its.concept}, {its.layers}: " + ("what never was" if row == NEVER else "seen")}
            for its, row, seen in lines
        ]  # fmt: skip
        made.append({"name": attack, "lines": drawn, "x": charts.ticks(x), "y": charts.ticks(y, 100, " %")})
    return made
