"""The bar of everything that takes a while: what is done, of how much, and the time left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def progress(console: Console, unit: str, hidden: bool = False) -> Progress:
    """A bar that goes when it is full: "Drawing ━━━━ 3 of 12 pictures, 0:01:20 left". Parts of a unit move it too."""
    counts = TextColumn(f"{{task.completed:.0f}} of {{task.total:.0f}} {unit},")
    return Progress(
        TextColumn("{task.description}"), BarColumn(), counts, TimeRemainingColumn(), TextColumn("left"),
        console=console, transient=True, disable=hidden,
    )  # fmt: skip
