"""Which of the embedded model's objects are near each other: what an erasure takes along first.

lookalikes.json says for each object how near every other is: the mean of two cosines, one between what the judge's features
say of the model's pictures of "a fox" and "a cat" (their looks), one between what the text encoder makes of these texts; each
less the mean over all objects. Looks alone miss what goes: to the judge a crown is nearer to the cat than the fox is, and the
fox is what an erased cat takes along. `python -m esd.bench.lookalikes` made it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable
from pathlib import Path

TABLE = Path(__file__).with_suffix(".json")


@functools.cache
def nearness() -> dict[str, dict[str, float]]:
    """object → every other object → how near they are, in [−1, 1]; the nearest first."""
    return json.loads(TABLE.read_text(encoding="utf-8"))["nearness"]


def nearest_first(nouns: Collection[str], others: Iterable[str]) -> list[str]:
    """The others, by how near they are to any of these objects; one of these themselves comes first."""
    table = nearness()
    return sorted(others, key=lambda other: -max(1.0 if other == noun else table[noun][other] for noun in nouns))
