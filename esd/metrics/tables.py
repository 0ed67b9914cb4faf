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


def figures_table(protocol, title: str, result: dict) -> Table:
    """The base model's figures beside the edit's with its 95 % interval, and beside what is published of the kind."""
    published = protocol.reference.get("columns", {})
    table = Table(escape(title), "base", "after", "95 %", *published, box=None, header_style="dim", title_justify="left")
    for name, label in protocol.labels.items():
        if name not in result["edit"]:
            continue
        after, before = result["edit"][name], result["base"][name]
        table.add_row(
            label, with_detections(before), f"[bold]{with_detections(after)}[/]", format_interval(after),
            *(figures.get(name, "") for figures in published.values()),
        )  # fmt: skip
    if published:
        table.caption = f"Published: {protocol.reference['source']}; another detector or threshold is another figure"
    return table


def with_detections(figure: dict) -> str:
    """A count of pictures, and where the judge finds things in them, how many it found."""
    return format_figure(figure) + (f", {figure['detections']} found" if "detections" in figure else "")
