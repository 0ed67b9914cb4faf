"""What esd.bench measured, beside the bars that were set for it."""

from __future__ import annotations

from typing import NamedTuple

from esd.bench.loop import ALONE, BATCH, SOURCES


class Row(NamedTuple):
    """A figure beside its bar; holds is None where there is no bar, or no figure yet."""

    figure: str
    measured: str
    bar: str = ""
    holds: bool | None = None


def at_least(figure: str, ratio: float, bar: float) -> Row:
    return Row(figure, f"{ratio:.1f}×", f"at least {bar:g}×", ratio >= bar)


def rows_of(found: dict) -> list[Row]:
    """What was found, as the table shows it."""
    rows = []
    if "costs" in found:
        bars = {"student": ("about 52", 51, 53), "pool, frozen walks": ("≤ 3", 0, 3), "pool, student walks": ("≤ 5", 0, 5),
                "cache": ("1", 1, 1)}  # fmt: skip
        for name, (bar, low, high) in bars.items():
            forwards = found["costs"][name]["forwards"]
            rows.append(Row(f"U-Net forwards an example: {name}", f"{forwards:.2f}", bar, low <= forwards <= high))
        for base, bars in ((ALONE, (20, 20, 30)), ("student", (7, 7, 12))):
            for name, bar in zip(list(SOURCES)[1:], bars, strict=True):
                ratio = found["costs"][base]["seconds"] / found["costs"][name]["seconds"]
                against = base if base == ALONE else f"student, batch {BATCH}"
                figure = f"time an example, {name} (batch {BATCH}) against {against}"
                rows.append(at_least(figure, ratio, bar))
        rows.append(Row(f"time an example, {ALONE}", f"{1000 * found['costs'][ALONE]['seconds']:.0f} ms"))
    if "roll-out" in found:
        rolled = found["roll-out"]
        rows.append(Row(f"the cache's roll-out of {rolled['walks']} walks, once", f"{rolled['seconds']:.1f} s"))
    if "sweep" in found:
        swept = found["sweep"]
        figure = f"12-run sweep of {swept['steps a run']} steps: one cache and its roll-out against 12 student runs"
        rows.append(at_least(figure, swept["ratio"], 25))
    if "memory" in found:
        ratio = found["memory"]["ratio"]
        figure = "weights + Adam beyond one U-Net, ESD-x, SD 1.4's configuration (bytes of unique storages)"
        rows.append(Row(figure, f"{100 * ratio:.1f} %", "≤ 20 %", ratio <= 0.2))
    if "step alone" in found:
        ratio = found["step alone"]["ratio"]
        figure = f"a step of {BATCH} examples against its U-Net forwards and its backward pass alone"
        rows.append(Row(figure, f"{ratio:.2f}×", "≤ 1.1×", ratio <= 1.1))
    if "overhead" in found:
        over = found["overhead"]
        figure = f"Lightning + Hydra against a bare loop, {over['steps']} steps"
        measured = (
            f"{100 * (over['whole'] - 1):+.1f} % ({100 * (over['step'] - 1):+.1f} % a step, {over['seconds once']:.1f} s once)"
        )
        rows.append(Row(figure, measured, "≤ 5 %", over["whole"] <= 1.05))
    for name, seconds in found.get("start-up", {}).items():
        rows.append(Row(f"python -m esd.train: {name}", f"{seconds:.2f} s", "under 2 s", seconds < 2))
    if "until erased" in found:
        for name, bar in (("pool, frozen walks", 10), ("pool, student walks", 10), ("cache", 20)):
            figure = f"training time until seen in at most 3 %, {name} against student, each at its best"
            ratio = found["until erased"].get(name)
            if ratio is None:
                missing = "not measured: python -m esd.bench.quality --part until-erased"
                rows.append(Row(figure, missing, f"at least {bar}×"))
            else:
                rows.append(at_least(figure, ratio, bar))
    if "layouts" in found:
        base = found["layouts"]["32-true, default"]
        for case, rate in found["layouts"].items():
            rows.append(Row(f"forwards a second, batch 20: {case}", f"{rate:.0f} ({rate / base:.2f}×)"))
    if "switches" in found:
        for name, ratio in found["switches"]["against as trained"].items():
            if name != "as trained":
                rows.append(Row(f"time an example of the pool, {name} against as trained", f"{ratio:.2f}"))
        seconds = found["switches"]["seconds to compile"]
        rows.append(Row("compile: once", found["switches"]["not compiled"] if seconds is None else f"{seconds:.0f} s"))
        plain, less = found["switches"]["bytes kept"].values()
        rows.append(Row("gradient_checkpointing: activations kept", f"{less / 1e6:.1f} of {plain / 1e6:.1f} MB"))
    return rows
