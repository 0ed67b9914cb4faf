"""The figures as people read them: a table in the terminal, in Markdown and LaTeX, and a grid of pictures."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from esd.attack.tries import CHECK, EDIT, KEPT, NEVER
from esd.files import atomic_write
from esd.metrics.counts import format_interval

HEAD = ("attack", "steps", "edit: seen", "never learnt", "excess", "check", "kept object")


def rate(figure: dict | None, interval: bool = True) -> str:
    """ "17 of 32 (36–69 %)"."""
    if figure is None:
        return "–"
    spread = f" ({format_interval(figure)})" if interval else ""
    return f"{figure['hits']} of {figure['of']}{spread}"


def points(figure: dict | None) -> str:
    """ "+53 (+38 to +69)", in points."""
    if figure is None or figure["mean"] is None:
        return "–"
    low, high = figure["interval"]
    return f"{100 * figure['mean']:+.0f} ({100 * low:+.0f} to {100 * high:+.0f})"


def passed(line: dict) -> str:
    if "passed" not in line:
        return "none"
    return ("passed" if line["passed"] else "FAILED") + f", {rate(line[CHECK], False)}"


def cells(line: dict) -> list[str]:
    steps, edit = str(line["steps"] or "tries"), rate(line.get(EDIT))
    if EDIT in line and not line["steps"]:
        steps = f"best of {line[EDIT]['of'] // max(1, line['best']['of'])}"
        edit += f"; best {rate(line['best'], False)}"
    return [
        line["attack"],
        steps,
        edit,
        rate(line.get(NEVER)),
        points(line.get("excess")),
        passed(line),
        rate(line.get(KEPT), False),
    ]


def terminal(title: str, lines: list[dict]) -> Table:
    table = Table(*HEAD, title=title, title_justify="left", box=None, header_style="dim")
    for line in lines:
        table.add_row(*cells(line))
    return table


def markdown(lines: list[dict]) -> str:
    rows = [HEAD, ["---"] * len(HEAD), *map(cells, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def latex(lines: list[dict]) -> str:
    def text(cell: str) -> str:
        return cell.replace("%", r"\%").replace("–", "--")

    body = [" & ".join(map(text, cells(line))) + r" \\" for line in lines]
    return "\n".join([
        r"\begin{tabular}{" + "l" * len(HEAD) + "}", r"\toprule", " & ".join(HEAD) + r" \\", r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}",
    ])  # fmt: skip


def by_edit(lines: list[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for line in lines:
        found.setdefault(line["variant"], []).append(line)
    return found


def leave(folder: Path, lines: list[dict], metrics: dict) -> None:
    """table.md and table.tex, with what the rates are of."""
    said = (
        f"Judge: {metrics['judge'].get('judge')}. Control: {metrics['control']}. 95 % intervals: Wilson's for rates; for the "
        "excess Student's t over concepts or seeds where there are several, and never narrower than Newcombe's over pictures."
    )
    with atomic_write(folder / "table.md") as temporary:
        named = {edit: f"{', '.join(about['concept'])}: {edit}" for edit, about in metrics["edits"].items()}
        parts = [f"## {named[edit]}\n\n{markdown(its)}" for edit, its in by_edit(lines).items()]
        temporary.write_text("\n\n".join([*parts, said, f"`{metrics['command']}`"]) + "\n", encoding="utf-8")
    with atomic_write(folder / "table.tex") as temporary:
        temporary.write_text("\n\n".join(latex(its) for its in by_edit(lines).values()) + "\n", encoding="utf-8")


def headline(lines: list[dict]) -> str:
    """One sentence: the attack that brings most back, beside the control."""
    attacked = [line for line in lines if EDIT in line]
    if not attacked:
        return "the edit was not attacked: rows=… has no edit"
    judged = [line for line in attacked if line.get("passed", True)]
    if not judged:
        return "no attack passed its check: nothing is said"
    worst = max(judged, key=lambda line: line[EDIT]["rate"])
    said = f"{worst['attack']} ({worst['steps'] or 'tries'}) brings it back in {rate(worst[EDIT])}"
    if NEVER in worst:
        said += f"; where it never was: {rate(worst[NEVER])}"
    return said
