"""What esd.bench.quality's runs say: batch and learning rate that suit a source, times until erased, and tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import NamedTuple

from esd.bench.loop import ESD_U, ESD_X, SOURCES
from esd.metrics.counts import format_interval, rate_figure

RULES = {"esd-x": ESD_X, "esd-u": ESD_U}
PARTS = ("equal-steps", "equal-time", "until-erased")
OTHERS = ["cat", "bus"]  # what batch and learning rate are tuned on
SEEN = 0.03  # of the pictures, at most: erased
LEFT = 0.9  # of what the base model gets right of other objects, at least: or batch and learning rate are no good


class Run(NamedTuple):
    """One training. Its key in the results is all of it."""

    part: str
    concept: str
    layers: str
    seed: int
    source: str
    batch: int
    lr: float

    @property
    def key(self) -> str:
        return "/".join(map(str, self))


def of(key: str) -> Run:
    part, concept, layers, seed, source, batch, lr = key.split("/")
    return Run(part, concept, layers, int(seed), source, int(batch), float(lr))


def base_kept(found: dict, concept: str) -> float:
    hits, asked = found[f"base/{concept}"]["kept"]
    return hits / asked


def tuned(found: dict) -> dict[tuple[str, str], tuple[int, float]]:
    """For each source and rule the batch and the learning rate that erased the other concepts soonest (geometric mean; those
    that never did count as twice their time) and left most of the rest; where none left it, the one that left most."""
    tried: dict[tuple, list[tuple[float, float]]] = {}
    for key, result in found.items():
        if key.startswith("tuning/"):
            run, (hits, asked) = of(key), result["kept"]
            seconds = result["seconds"] if result["erased"] else 2 * result["seconds"]
            left = hits / asked / max(base_kept(found, run.concept), 1e-9)
            tried.setdefault((run.source, run.layers, run.batch, run.lr), []).append((seconds, left))

    def cost(case: tuple) -> tuple[bool, float]:
        seconds, left = zip(*tried[case], strict=True)
        spared = statistics.mean(left)
        return spared < LEFT, statistics.geometric_mean(seconds) if spared >= LEFT else -spared

    alike = in_order({case[:2] for case in tried})
    return {kind: min((case for case in tried if case[:2] == kind), key=cost)[2:] for kind in alike}


def medians(found: dict) -> dict[tuple[str, str], dict]:
    """Of each source and rule, over the runs until erased: their median time (those that were not erased in time count as
    longer than any), how many there are, and how many came to it."""
    return {
        case: {
            "seconds": statistics.median(run["seconds"] if run["erased"] else math.inf for run in runs),
            "runs": len(runs), "erased": sum(run["erased"] for run in runs),
        }
        for case, runs in grouped(found, "until-erased", "source", "layers").items()
    }  # fmt: skip


def ratios(results: dict) -> dict[str, float]:
    """How many times less training time than the student source each source took, each by the rule that suits it best; of
    those that came to it in most of their runs."""
    best: dict[str, float] = {}
    for (source, _), figure in medians(results["runs"]).items():
        best[source] = min(best.get(source, math.inf), figure["seconds"])
    base = best.pop("student", math.inf)
    return {source: base / seconds for source, seconds in best.items() if math.isfinite(base) and math.isfinite(seconds)}


def pooled(results: list[dict]) -> list[str]:
    """Seen and kept over all pictures of these runs, with Wilson's intervals."""
    figures = [rate_figure(*(sum(result[name][i] for result in results) for i in range(2))) for name in ("seen", "kept")]
    return [f"{100 * figure['rate']:.1f} % ({format_interval(figure)})" if figure["of"] else "-" for figure in figures]


def grouped(found: dict, part: str, *by: str) -> dict[tuple, list[dict]]:
    """The results of a part, those that are alike in these facts together; sources in their order."""
    groups: dict[tuple, list[dict]] = {}
    for run, result in ((of(key), found[key]) for key in found if key.startswith(f"{part}/")):
        groups.setdefault(tuple(getattr(run, name) for name in by), []).append(result)
    return {case: groups[case] for case in in_order(groups)}


def in_order(cases) -> list[tuple]:
    return sorted(cases, key=lambda case: [list(SOURCES).index(fact) if fact in SOURCES else fact for fact in case])


def median(results: list[dict], name: str, digits: int) -> str:
    return f"{statistics.median(result[name] for result in results):.{digits}f}"


def by_effort(found: dict) -> tuple[list[str], list[list[str]]]:
    """The sources at equal steps beside equal time: columns and rows."""
    columns = [(part, layers) for layers in RULES for part in ("equal-steps", "equal-time")]
    alike = {(part, *case): runs for part in PARTS for case, runs in grouped(found, part, "layers", "source", "batch").items()}
    rows = []
    for source, batch in in_order({case[2:] for case in alike if case[:2] in columns}):
        row = [source, str(batch)]
        for part, layers in columns:
            if runs := alike.get((part, layers, source, batch)):
                seen, kept = pooled(runs)
                effort = f"{median(runs, 'steps', 0)} steps, {median(runs, 'seconds', 0)} s"
                row.append(f"seen {seen}; kept {kept}; {effort}")
            else:
                row.append("")
        rows.append(row)
    return ["source", "batch", *(f"{layers}, {part.replace('equal-', 'the same ')}" for part, layers in columns)], rows


def by_rate(found: dict, part: str) -> tuple[list[str], list[list[str]]]:
    """The runs of "tuning" or "until-erased", those of one source, rule, batch and learning rate in a row: columns and rows."""
    rows = [
        [source, layers, str(batch), f"{lr:g}", f"{sum(result['erased'] for result in results)} of {len(results)}",
         *pooled(results), median(results, "steps", 0), median(results, "seconds", 1)]
        for (source, layers, batch, lr), results in grouped(found, part, "source", "layers", "batch", "lr").items()
    ]  # fmt: skip
    return ["source", "layers", "batch", "lr", "erased in time", "still seen", "kept", "steps", "seconds"], rows


def base_line(found: dict) -> str:
    """What the base model shows, or nothing where it was not judged."""
    base = [found[key] for key in found if key.startswith("base/") and key.removeprefix("base/") not in OTHERS]
    seen, kept = pooled(base) if base else ("", "")
    return f"base model: seen {seen}; kept {kept}" if base else ""


def until_lines(found: dict) -> Iterator[str]:
    """How long each source trained until erased, and how many times less that is than the student source's."""
    for (source, layers), figure in medians(found).items():
        line = (
            f"until seen in at most {100 * SEEN:.0f} %, {source}, {layers}: {figure['erased']} of {figure['runs']} runs came "
        )
        yield line + (
            f"to it, the median after {figure['seconds']:.1f} s of training"
            if math.isfinite(figure["seconds"])
            else "to it: too few"
        )
    for source, ratio in ratios({"runs": found}).items():
        yield f"  {source} in {ratio:.1f} times less training time than student, each by the rule that suits it best"


def markdown(columns: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def tables(found: dict) -> Iterator[str]:
    """What there is, as Markdown: the sources at equal steps beside equal time, tuning, and until erased."""
    if line := base_line(found):
        yield line
    columns, rows = by_effort(found)
    if rows:
        yield from markdown(columns, rows)
    for part in ("tuning", "until-erased"):
        columns, rows = by_rate(found, part)
        if rows:
            yield f"\n{part}:"
            yield from markdown(columns, rows)
    yield from until_lines(found)
