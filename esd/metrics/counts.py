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


def lost(base: dict[str, dict], edit: dict[str, dict]) -> list[dict]:
    """What came to harm of all that is to be kept and is counted by name (the figures' "each"): [{"group", "name", "base":
    [hits, of], "edit": [hits, of]}], those whose interval lies below the base model's.

    A few pictures tell little: of one or two nothing is ever lost, of four only what is gone whole.
    """
    found = []
    for group, figure in edit.items():
        for name, after in figure.get("each", {}).items() if group.startswith(("kept", "lookalikes")) else ():
            before = base[group]["each"][name]
            if wilson(*after)[1] < wilson(*before)[0]:
                found.append({"group": group, "name": name, "base": list(before), "edit": list(after)})
    return sorted(found, key=lambda it: it["edit"][0] / it["edit"][1] - it["base"][0] / it["base"][1])


def format_lost(found: Sequence[dict]) -> str:
    """What was lost, for people: "fox (12 → 0 of 12), frog (12 → 7 of 12)"."""
    return ", ".join(f"{it['name']} ({it['base'][0]} → {it['edit'][0]} of {it['edit'][1]})" for it in found)


def damage(base: dict[str, dict], edit: dict[str, dict]) -> str:
    """The damage in a line: what was lost, or that none of the look-alikes was, with their counts; nothing without any."""
    if found := lost(base, edit):
        return f"lost: {format_lost(found)}"
    near = edit.get("lookalikes", {}).get("each", {})
    counts = [{"name": name, "base": base["lookalikes"]["each"][name], "edit": after} for name, after in near.items()]
    return f"lost: none of the look-alikes, {format_lost(counts)}" if near else ""


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
