"""Counts with their intervals."""

from __future__ import annotations

import math


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a rate seen `hits` times in `of` (Wilson 1927); (0, 1) where nothing was asked."""
    if of == 0:
        return 0.0, 1.0
    p, n = hits / of, of
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return (0.0 if hits == 0 else low), (1.0 if hits == of else high)  # the exact ends, which rounding would miss


def counted(hits: int, of: int) -> dict:
    """A count as it stands in metrics.json."""
    low, high = wilson(hits, of)
    return {"hits": hits, "of": of, "rate": hits / of if of else None, "interval": [round(low, 4), round(high, 4)]}


def shown(count: dict) -> str:
    """A count for people: "2.1 % (1 of 48)"."""
    return f"{100 * count['rate']:.1f} % ({count['hits']} of {count['of']})" if count["of"] else "not asked"
