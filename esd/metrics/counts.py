"""Figures with their 95 % intervals, as they stand in metrics.json."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a rate seen `hits` times in `of` (Wilson 1927); (0, 1) where nothing was asked."""
    if of == 0:
        return 0.0, 1.0
    p, n = hits / of, of
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return (0.0 if hits == 0 else low), (1.0 if hits == of else high)  # the exact ends, which rounding would miss


def bootstrap(values: Sequence[float], draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a mean (Efron 1979), from a fixed seed: the same values give the same interval."""
    values, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def rate_figure(hits: int, of: int) -> dict:
    """A count: how often something was seen, with Wilson's interval."""
    low, high = wilson(hits, of)
    return {"hits": hits, "of": of, "rate": hits / of if of else None, "interval": [round(low, 4), round(high, 4)]}


def mean_figure(values: Sequence[float]) -> dict:
    """A mean over pictures, with the bootstrap's interval; None of nothing."""
    if not len(values):
        return {"mean": None, "of": 0, "interval": None}
    return {"mean": float(np.mean(values)), "of": len(values), "interval": [round(end, 6) for end in bootstrap(values)]}


def figure_value(figure: dict) -> float | None:
    """The figure alone, a rate or a mean."""
    return figure["rate"] if "rate" in figure else figure["mean"]


def format_figure(figure: dict) -> str:
    """A figure for people: "2.1 % (1 of 48)", "0.1234"."""
    if not figure["of"]:
        return "not asked"
    if "rate" in figure:
        return f"{100 * figure['rate']:.1f} % ({figure['hits']} of {figure['of']})"
    return f"{figure['mean']:.4g}"


def format_interval(figure: dict) -> str:
    """Its interval for people: "0.4–10.9 %"; nothing where there is none."""
    if not figure.get("interval") or not figure["of"]:
        return ""
    low, high = figure["interval"]
    return f"{100 * low:.1f}–{100 * high:.1f} %" if "rate" in figure else f"{low:.4g}–{high:.4g}"
