"""Prompt sets: CSV files with a prompt, a seed and perhaps more in each line."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path

from esd import UserError
from esd.command.checks import option_errors, require_at_least
from esd.protocols import Row, each_once

# The same column goes by several names: in the authors' files, in I2P's, in plain ones.
SEED = ("evaluation_seed", "sd_seed", "seed")
GUIDANCE = ("evaluation_guidance", "sd_guidance_scale", "guidance")
WIDTH, HEIGHT = ("sd_image_width", "width"), ("sd_image_height", "height")
LOWS = {"seed": 0, "guidance": 0.0, "width": 1, "height": 1}


def read_table(path: str | Path) -> list[dict[str, str]]:
    """The lines of a CSV file, by column. Raises UserError where there is none that can be read."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"protocol.csv={path} does not exist: give a CSV file with the columns prompt and evaluation_seed")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file, strict=True))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(f"protocol.csv={path} is no CSV file that can be read: {error}") from error
    if not lines:
        raise UserError(f"protocol.csv={path} holds no lines under its header")
    return lines


def column(lines: list[dict[str, str]], path: str | Path, names: tuple[str, ...]) -> str | None:
    """Which of these columns the file has."""
    return next((name for name in names if name in lines[0]), None)


def needed_column(lines: list[dict[str, str]], path: str | Path, *names: str) -> str:
    """The same, where one must be there. Raises UserError."""
    found = column(lines, path, names)
    if found is None:
        there = ", ".join(name for name in lines[0] if name)
        raise UserError(f"protocol.csv={path} has no column {names[0]}: it has {there}")
    return found


def whole(text: str) -> int:
    """The whole number that a text is, exactly: "3", "3.0", "9007199254740993". Raises ValueError for any other."""
    with contextlib.suppress(InvalidOperation):
        number = Decimal(text.strip())
        if number.is_finite() and number.adjusted() < 30 and number == int(number):  # of 1e999999999 not even the digits
            return int(number)
    raise ValueError(f"'{text.strip()}' is no whole number, or none of a sensible size")


def prompt_rows(
    path: str | Path, guidance: float, group: Callable[[dict], str], about: Callable[[dict], object] = lambda line: None
) -> list[Row]:
    """A row for each line, once where lines repeat: its own seed, guidance and size where the file has them, `guidance` else.

    Raises UserError for a file without prompts or seeds, and for a line whose number is none.
    """
    lines = read_table(path)
    prompt, seed = needed_column(lines, path, "prompt"), needed_column(lines, path, *SEED)
    guided, wide, high = (column(lines, path, names) for names in (GUIDANCE, WIDTH, HEIGHT))
    rows = []
    for n, line in enumerate(lines, 2):  # the header is line 1
        where = f"protocol.csv={path}, entry {n - 1}"
        with option_errors(where):
            if None in line or None in line.values():
                raise ValueError("it has more fields than the header, or fewer: put text with a comma in it in quotes")
            its = {
                "seed": whole(line[seed]),
                "guidance": float(line[guided]) if guided and line[guided] else guidance,
                "width": whole(line[wide]) if wide and line[wide] else None,
                "height": whole(line[high]) if high and line[high] else None,
            }
            require_at_least(its, f"{where}: ", **{name: low for name, low in LOWS.items() if its[name] is not None})
            rows.append(Row(group(line), line[prompt].strip(), subject=about(line), **its))
    return each_once(rows)


def limit_rows(rows: list[Row], limit: int | None) -> list[Row]:
    """The first so many of each group; all where there is no limit."""
    taken: dict[str, int] = {}
    kept = []
    for row in rows:
        taken[row.group] = taken.get(row.group, 0) + 1
        if limit is None or taken[row.group] <= limit:
            kept.append(row)
    return kept
