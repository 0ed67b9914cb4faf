"""Words and tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from esd.metrics.counts import format_figure, format_interval


def concept_names(concepts: Sequence[str], erase_from: Sequence[str]) -> str:
    """What was erased, for people: "pizza, cat", "bath from nudity"."""
    sources = erase_from or [""] * len(concepts)
    return ", ".join(text + (f" from {source}" if source else "") for text, source in zip(concepts, sources, strict=True))


LABEL, COLUMN = 25, 19  # characters: of what a figure says, and of a column of figures at least


def figures_tables(protocol, results: Sequence[dict], width: int) -> list[Table]:
    """The base model's figures beside those of what is compared with it, a column each, with their 95 % intervals.

    results: of one folder's metrics.json. What was asked other pictures, of another concept, has a base of its own and so
    another table; and so has what a console of this width (in characters) has no place for.
    """
    most, alike = max(1, (width - LABEL) // (COLUMN - 1) - 1), []
    for result in results:
        if alike and len(alike[-1]) < most and alike[-1][0]["base"] == result["base"]:
            alike[-1].append(result)
        else:
            alike.append([result])
    return [figures_table(protocol, beside, width) for beside in alike]


def figures_table(protocol, results: Sequence[dict], width: int) -> Table:
    """The results, of one base, beside each other."""
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("with 95 % interval", max_width=LABEL)
    for name in ("base", *(result["title"] for result in results)):
        table.add_column(escape(name), max_width=max(COLUMN - 2, (width - LABEL) // (len(results) + 1) - 1), overflow="fold")
    for name, label in protocol.labels.items():
        if name not in results[0]["edit"]:
            continue
        cells = [f"[bold]{with_detections(result['edit'][name])}[/]\n[dim]{format_interval(result['edit'][name])}[/]"
                 for result in results]  # fmt: skip
        table.add_row(label, with_detections(results[0]["base"][name]), *cells)
    return table


def published_figures(protocol) -> str | None:
    """What is published of the kind, in a sentence; nothing where nothing is."""
    if not protocol.reference:
        return None
    columns = [
        f"{whose} {', '.join(f'{value} {protocol.labels.get(name, name)}' for name, value in figures.items())}"
        for whose, figures in protocol.reference["columns"].items()
    ]
    return f"Published: {'; '.join(columns)} ({protocol.reference['source']}); another detector or threshold is another figure"


def with_detections(figure: dict) -> str:
    """A count of pictures, and where the judge finds things in them, how many it found."""
    return format_figure(figure) + (f"\n{figure['detections']} found" if "detections" in figure else "")
