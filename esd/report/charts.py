"""The geometry of the report's two charts: numbers in, coordinates of an SVG out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 420  # of a chart's viewBox
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 14, 60  # margins that hold the axes' words


@dataclass(frozen=True)
class Axis:
    """From a range of values to a range of pixels."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values (1, 2 or 5 times a power of ten apart) inside the range."""
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axes(xs: Sequence[float], ys: Sequence[float]) -> tuple[Axis, Axis]:
    """Axes that hold all values with a little room; y grows upwards."""

    def padded(values: Sequence[float]) -> tuple[float, float]:
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.06 * abs(high) or 0.5
        return low - room, high + room

    return Axis(*padded(xs), LEFT, WIDTH - RIGHT), Axis(*padded(ys), HEIGHT - BOTTOM, TOP)


def ticks(axis: Axis, factor: float = 1, unit: str = "") -> list[tuple[float, str]]:
    """(place, words) of an axis' round values; a factor of 100 is for shares, which lie in [0, 1]."""
    values = [value for value in axis.ticks() if factor == 1 or 0 <= value <= 1]
    return [(axis.at(value), f"{value * factor:g}{unit}") for value in values]


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other beats in both coordinates (larger is better), from left to right; equal points: the first."""
    best, front = -math.inf, []
    for i in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1])):
        if points[i][1] > best:
            best = points[i][1]
            front.append(i)
    return front[::-1]


def path(points: Sequence[tuple[float, float]]) -> str:
    """An SVG path through points."""
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def thin(points: Sequence[tuple[float, float]], most: int = 200) -> list[tuple[float, float]]:
    """At most so many points, the means of equal stretches: a curve of a page need not have every step."""
    if len(points) <= most:
        return list(points)
    cuts = [round(i * len(points) / most) for i in range(most + 1)]
    parts = [points[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
