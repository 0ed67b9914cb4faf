"""Look-alikes of the concepts that people erase from real models: what an erasure takes along first, and is asked about apart.

The table, lookalikes.yaml, was chosen by hand.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from pathlib import Path

import yaml

TABLE = Path(__file__).with_suffix(".yaml")


def plain(text: str) -> str:
    """The text's words in small letters, without accents and signs, a space around each: " salvador dali "."""
    letters = "".join(letter for letter in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(letter))
    words = " ".join(re.findall(r"[^_\W]+", letters))
    return f" {words} "


@functools.cache
def table() -> dict:
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def said(text: str, concept: str) -> bool:
    """Whether the text stands in the concept, word for word."""
    return plain(text) in plain(concept)


def lookalikes(concept: str, n: int = 3) -> list[str]:
    """The nearest n look-alikes of a concept, as texts of its own kind, nearest first; [] where the table has none.

    "Van Gogh" → ["Paul Gauguin", "Paul Signac", "Georges Seurat"]; "church" → ["mosque", "castle", "monastery"].
    """
    for entry in table()["concepts"]:
        if any(said(text, concept) for text in entry["of"]):
            return entry["are"][:n]
    for kind in ("painters", "characters"):
        for line in table()[kind].values():
            short = [name.split(maxsplit=1)[-1] if kind == "painters" else name for name in line]  # "van Gogh"
            meant = [i for i, name in enumerate(short) if said(name, concept)]
            if meant:
                others = [i for i in range(len(line)) if i not in meant]
                return [line[i] for i in sorted(others, key=lambda i: min(abs(i - at) for at in meant))[:n]]
    return []
