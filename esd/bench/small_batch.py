"""python -m esd.bench.small_batch: does the pool erase as well as the paper's source at batch 1? About 70 minutes of one core.

At batch 1, the paper's and the default of every real model, the pool is a single walk: successive steps train neighbouring
time steps of one and the same latent. Here it stands beside `student`, a walk of its own for every example, by ESD-x on the
embedded model: two objects and a style, batch 1 and 2, three seeds, 60 steps; and the paper's 1000 steps at a rate that goes
equally far, at batch 1, each concept with another seed. What every run left is judged as in esd.bench.quality. After each run
the counts lie in --out, from which a repeated command goes on, and the table of what there is in
outputs/gallery/small-batch.json, which says how many runs are missing.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

from esd.bench.loop import DEFAULT
from esd.bench.quality import Bench, Look
from esd.bench.quality_tables import Run, markdown
from esd.command.entry import ArgumentParser, fail
from esd.metrics.counts import format_interval, rate_figure

OBJECTS, STYLES = ("pizza", "owl"), ("twemoji style",)
CONCEPTS, SEEDS = ("pizza", "twemoji style", "owl"), 3
SHORT, LONG = (60, 8e-4), (1000, 4.8e-5)  # steps and learning rate: their product is the same
LOOK = Look(pictures=18, every=4, steps=15)
TEXT = (
    "Where x_t comes from at batch 1, the paper's, where the pool is one single walk, and at 2: the default source beside the "
    "paper's, `student`, from the same start. ESD-x, two objects and a style; 60 steps with three seeds each, and the paper's "
    "1000 at a rate that goes equally far, each concept with another seed. *Right*: other objects."
)


def planned() -> Iterator[tuple[Run, int]]:
    """Each training, with its steps: short ones before long ones, the two sources side by side."""
    shorts = [(SHORT, seed, batch, concept) for seed in range(SEEDS) for batch in (1, 2) for concept in CONCEPTS]
    longs = [(LONG, seed, 1, concept) for seed, concept in enumerate(CONCEPTS)]
    for (steps, lr), seed, batch, concept in (*shorts, *longs):
        for source in (DEFAULT, "student"):
            yield Run("small-batch", concept, "esd-x", seed, source, batch, lr), steps


def pooled(results: list[dict], name: str) -> str:
    """A rate over all their pictures, with its interval; nothing where there are none."""
    figure = rate_figure(*(sum(result[name][i] for result in results) for i in range(2)))
    return f"{100 * figure['rate']:.1f} % ({format_interval(figure)}) of {figure['of']}" if figure["of"] else ""


def table(found: dict) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the base model, then runs alike in steps, batch and source together."""

    def row(heads: list[str], results: dict[str, list[dict]]) -> list[str]:
        every = [result for some in results.values() for result in some]
        objects, styles = ([result for name in names for result in results.get(name, [])] for names in (OBJECTS, STYLES))
        return [*heads, pooled(objects, "seen"), pooled(styles, "seen"), pooled(every, "kept")]

    rows = [row(["", "", "the base model", ""], {name: [found[f"base/{name}"]] for name in CONCEPTS})]
    groups: dict[tuple, dict[str, list[dict]]] = {}
    for run, steps in planned():
        if all(run._replace(source=source).key in found for source in (DEFAULT, "student")):  # the same runs of both
            groups.setdefault((steps, run.batch, run.source, run.lr), {}).setdefault(run.concept, []).append(found[run.key])
    order = sorted(groups, key=lambda case: (case[0], case[1], case[2] == DEFAULT))  # the paper's source above the other
    for steps, batch, source, lr in order:
        results = groups[steps, batch, source, lr]
        rows.append(row([f"{steps} at {lr:g}", str(batch), source, str(sum(map(len, results.values())))], results))
    return ["steps", "batch", "source", "runs", "objects seen", "style seen", "right"], rows


def in_pairs(found: dict) -> str:
    """How the two sources' runs from the same start compare in what is left of the rest."""
    kept = {run: found[run.key]["kept"][0] for run, _ in planned() if run.key in found}
    pairs = [(kept[run], kept.get(run._replace(source="student"))) for run in kept if run.source == DEFAULT]
    pairs = [(ours, theirs) for ours, theirs in pairs if theirs is not None]
    fewer, more = (sum((theirs - ours) * sign > 0 for ours, theirs in pairs) for sign in (1, -1))
    return (
        f"Of the {len(pairs)} pairs of runs from the same start, the pool's left fewer of the other objects right than "
        f"`student`'s in {fewer}, more in {more}, and as many in {len(pairs) - fewer - more}."
    )


def publish(found: dict) -> None:
    from esd.report.result import write_result

    columns, rows = table(found)
    runs = [run for run, _ in planned()]
    made = sum(run.key in found for run in runs)
    notes = [in_pairs(found)]
    notes += [f"{made} of the {len(runs)} runs are made: the table is not whole yet."] if made < len(runs) else []
    write_result(
        "small-batch", title="The sources at batch 1 and 2", text=TEXT, command="python -m esd.bench.small_batch",
        columns=columns, rows=rows, notes=notes,
        makers=["esd/bench/loop.py", "esd/bench/small_batch.py", "esd/erasing/trajectories.py"],
    )  # fmt: skip


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.bench.small_batch", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/bench-small-batch.json"), help="all counts: what is there is not done again"
    )
    options = parser.parse_args()
    from esd.files import write_json

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, 1, LOOK)
    settings = {"base": bench.model.base_hash, "look": list(LOOK)}
    results = json.loads(options.out.read_text()) if options.out.is_file() else {"settings": settings, "runs": {}}
    if results["settings"] != settings:
        fail(f"{options.out} was measured with other sizes or another model: remove it, or give --out another name")
    found = results["runs"]
    for concept in CONCEPTS:
        if f"base/{concept}" not in found:
            found[f"base/{concept}"] = bench.base(concept)
    left = [(run, steps) for run, steps in planned() if run.key not in found]
    for n, (run, steps) in enumerate(left, 1):
        found[run.key] = bench.trained(run, steps, math.inf)
        write_json(options.out, results)
        publish(found)
        print(f"{n} of {len(left)}: {run.key}: {found[run.key]}", flush=True)
    publish(found)
    for line in markdown(*table(found)):
        print(line)


if __name__ == "__main__":
    main()
