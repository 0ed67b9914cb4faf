"""python -m esd.bench.quality: do the cheaper sources of x_t erase as well as the paper's? About an hour on 2 cores.

Eight concepts (six objects, a style, a category) × ESD-x and ESD-u × three seeds, each trained by every source from the same
start. Three parts, which can be chosen with --part:

    equal-steps    the same number of optimiser steps at the same batch
    equal-time     the same training time: what the default source takes for these steps (the student source also at the
                   paper's batch of 1, where its steps are cheapest)
    until-erased   training time until the concept is seen in at most 3 %, by ESD-x and by the default's layers (kv, others
                   spared), each source at its own best batch and learning rate, tuned on other concepts. Not in the hour:
                   another one

Two processes of one thread each do the runs: more robust than one of two threads, and every run has the same company. A
roll-out of the cache and the drawing and judging of pictures do not count as training time. After every run
outputs/bench-quality.json is written, from which a repeated command goes on; the tables are of what is there, and lie for the
results page in outputs/gallery/quality.json and until-erased.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from esd.bench.loop import DEFAULT, KV, SOURCES, Loop, mixed, store_in  # noqa: E402
from esd.bench.quality_tables import (  # noqa: E402
    OTHERS,
    PARTS,
    RULES,
    SEEN,
    Run,
    base_line,
    by_effort,
    by_rate,
    tables,
    tuned,
    until_lines,
)
from esd.erasing.concepts import Concept
from esd.models.quiet import silence_libraries
from esd.protocols import Row, emoji
from esd.report.result import write_result
from esd.train.run_prompts import spared_by_default

silence_libraries()

EQUAL = """Six objects, a style and a category, three seeds each, trained by every source at the same steps and in the same \
time (that of the default source's steps). Kept: other objects that are still right."""
UNTIL = """Training time until the concept is seen in at most 3 %, by ESD-x and by the default's layers (kv, others spared), \
each source at the batch and learning rate that erased two other concepts soonest. A style by its bare name is among the \
concepts. Kept: other objects that are still right."""
CONCEPTS = ["pizza", "owl", "rocket", "umbrella", "crab", "house", "twemoji style", "weapon"]
LR = {"esd-x": 2e-4, "esd-u": 1e-4}
SPARE = 0.015  # of kv: the default's
RATES = {"esd-x": (4e-4, 8e-4, 1.6e-3, 3.2e-3), "kv": (3e-3, 6e-3, 1.2e-2)}  # tried until erased
BATCHES = {"student": (1, 2), **dict.fromkeys(list(SOURCES)[1:], (2, 4))}  # likewise
FIRST_LOOK = 0.1  # seconds of training; a late one would be the best that the cheapest source can come to
GROWS = (1.2, 1.5)  # the next look comes at so many times the training time; the second while most still show the concept


class Look(NamedTuple):
    """How much is drawn and judged: pictures of the concept by name (and as many in styles), one picture each of every
    `every`-th other object, in so many DDIM steps."""

    pictures: int
    every: int
    steps: int


class Bench:
    """What a worker keeps between runs."""

    def __init__(self, folder: str, walks: int, look: Look):
        import torch

        from esd import models

        torch.set_num_threads(1)
        self.model, self.store, self.look = models.load(None, "emoji"), store_in(Path(folder), walks), look

    def loop(self, run: Run) -> Loop:
        return Loop(
            self.model, run.concept, run.source, run.batch, self.store,
            seed=run.seed, lr=run.lr, rule=(RULES | {"kv": KV})[run.layers], spread=False,
            spare=SPARE if run.layers == "kv" else 0.0, spared=spared_by_default("emoji", [Concept(run.concept)]),
        )  # fmt: skip

    def rows(self, concept: str) -> tuple[list[Row], list[Row]]:
        """Pictures of the concept, those that are looked at first spread over the phrasings; and of other objects."""
        asked = emoji.rows([concept], self.look.pictures, 1, 1)
        gone = [row for row in asked if row.group in ("erased", "erased_styled")]
        kept = [row for row in asked if row.group in ("lookalikes", "kept")]
        return gone[::3] + gone[1::3] + gone[2::3], kept[:: self.look.every]

    def judged(self, denoiser, rows: list[Row]) -> list[int]:
        """[in how many pictures the judge sees what was asked, of how many], from the same noise for every run."""
        from esd.sample.sampling import sample

        prompts, seeds = [row.prompt for row in rows], [row.seed for row in rows]
        with mixed():
            drawn = sample(self.model, denoiser, prompts, seeds, steps=self.look.steps, guidance=emoji.GUIDANCE)
        found = [figure for figure in emoji.measure_pictures(rows, drawn).values() if "hits" in figure]
        return [sum(figure["hits"] for figure in found), sum(figure["of"] for figure in found)]

    def outcome(self, denoiser, concept: str) -> dict:
        return {name: self.judged(denoiser, rows) for name, rows in zip(("seen", "kept"), self.rows(concept), strict=True)}

    def base(self, concept: str) -> dict:
        return self.outcome(self.model.denoiser, concept)

    def trained(self, run: Run, steps: float, seconds: float) -> dict:
        """So many steps, or so much training time, whichever ends first; and what came of it."""
        loop, took, made = self.loop(run), 0.0, 0
        while made < steps and took < seconds:
            took += loop.run(1)
            made += 1
        return {"steps": made, "seconds": took, **self.outcome(loop.module.student, run.concept)}

    def until_erased(self, run: Run, limit: float) -> dict:
        """Looks at the pictures at ever later times until at most 3 % show the concept; "erased": whether that came before
        `limit` seconds of training. A third of the pictures first, and the rest only where these are good enough."""
        loop, took, made, due = self.loop(run), 0.0, 0, FIRST_LOOK
        gone, kept = self.rows(run.concept)
        third, allowed = -(-len(gone) // 3), math.floor(SEEN * len(gone))
        while True:
            while took < min(due, limit):
                took += loop.run(1)
                made += 1
            first = self.judged(loop.module.student, gone[:third])[0]
            seen = first + (self.judged(loop.module.student, gone[third:])[0] if first <= allowed else 0)
            if seen <= allowed or took >= limit:
                break
            due = took * GROWS[first > third / 2]
        result = {"erased": seen <= allowed, "steps": made, "seconds": took}
        if first > allowed:  # the rest was not looked at
            return {**result, **self.outcome(loop.module.student, run.concept)}
        return {**result, "seen": [seen, len(gone)], "kept": self.judged(loop.module.student, kept)}


_kept: dict = {}  # of a worker


def _start(*args) -> None:
    _kept["bench"] = Bench(*args)


def _work(task: tuple[str, str, tuple]) -> dict:
    """In a worker: a method of Bench, with its arguments."""
    method, _, args = task
    return getattr(_kept["bench"], method)(*args)


def equal_steps(found: dict, sizes: dict) -> Iterator[tuple]:
    for seed in range(sizes["seeds"]):  # seed by seed: a table of one is there early
        for concept in sizes["concepts"]:
            for layers in RULES:
                for source in sizes["sources"]:
                    run = Run("equal-steps", concept, layers, seed, source, sizes["batch"], LR[layers])
                    yield "trained", run.key, (run, sizes["steps"], math.inf)


def equal_time(found: dict, sizes: dict) -> Iterator[tuple]:
    """After equal-steps, which says how long that is."""
    for seed in range(sizes["seeds"]):
        for concept in sizes["concepts"]:
            for layers in RULES:
                like = [Run("equal-steps", c, layers, 0, DEFAULT, sizes["batch"], LR[layers]) for c in sizes["concepts"]]
                seconds = statistics.median(found[run.key]["seconds"] for run in like)
                for source, batch in [("student", 1), *((source, sizes["batch"]) for source in SOURCES)]:
                    run = Run("equal-time", concept, layers, seed, source, batch, LR[layers])
                    yield "trained", run.key, (run, math.inf, seconds)


def tuning(found: dict, sizes: dict) -> Iterator[tuple]:
    for concept in sizes["others"]:
        for layers, rates in sizes["rates"].items():
            for source, batches in BATCHES.items():
                for batch, lr in itertools.product(batches, rates):
                    run = Run("tuning", concept, layers, 0, source, batch, lr)
                    yield "until_erased", run.key, (run, sizes["limit"])


def until_erased(found: dict, sizes: dict) -> Iterator[tuple]:
    """After tuning, which says at which batch and learning rate."""
    best = tuned(found)
    for seed in range(sizes["seeds"]):
        for concept in sizes["concepts"]:
            for source, layers in best:
                run = Run("until-erased", concept, layers, seed, source, *best[source, layers])
                yield "until_erased", run.key, (run, 2 * sizes["limit"])


STAGES = {
    "equal-steps": [equal_steps],
    "equal-time": [equal_steps, equal_time],
    "until-erased": [tuning, until_erased],
}


def main() -> None:
    from esd.command.entry import ArgumentParser, fail

    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="which, may be repeated; equal-steps and equal-time")
    parser.add_argument("--steps", type=int, default=50, help="of equal-steps")
    parser.add_argument("--batch", type=int, default=5, help="of equal-steps and equal-time")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (3)")
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS, help=f"what is erased ({' '.join(CONCEPTS)})")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES, metavar="SOURCE", help="of equal-steps alone")
    parser.add_argument("--walks", type=int, default=20, help="the cache's")
    parser.add_argument("--pictures", type=int, default=18, help="of the concept by name, and as many in styles")
    parser.add_argument("--every", type=int, default=4, help="one picture of every so many other objects")
    parser.add_argument("--sampling-steps", type=int, default=15, help="of a judged picture")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of training that a tuning run may take to erase")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench-quality.json"), help="the results' file")
    options = parser.parse_args()
    from rich.console import Console

    from esd import models
    from esd.files import write_json

    console = Console(highlight=False)
    sizes = {"steps": options.steps, "batch": options.batch, "walks": options.walks, "limit": options.limit,
             "pictures": options.pictures, "every": options.every, "sampling_steps": options.sampling_steps}  # fmt: skip
    settings = {**sizes, "base": models.load(None, "emoji").base_hash}
    results = json.loads(options.out.read_text()) if options.out.is_file() else {"settings": settings, "runs": {}}
    if results.get("settings") != settings:
        fail(f"{options.out} was measured with other sizes or another model: remove it, or give --out another name")
    sizes |= {"seeds": options.seeds, "sources": options.sources, "concepts": options.concepts}
    sizes |= {"others": OTHERS, "rates": RATES}
    found, look = results["runs"], Look(options.pictures, options.every, options.sampling_steps)
    wanted = options.part or ["equal-steps", "equal-time"]
    if "equal-time" in wanted and DEFAULT not in options.sources:
        parser.error(f"--sources without '{DEFAULT}': equal-time is its time, so --part equal-steps belongs to it")
    stages = list(dict.fromkeys(stage for part in PARTS if part in wanted for stage in STAGES[part]))
    concepts = [*options.concepts, *(OTHERS if "until-erased" in wanted else [])]

    def base(found: dict, sizes: dict) -> Iterator[tuple]:
        for concept in concepts:
            yield "base", f"base/{concept}", (concept,)

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (folder, options.walks, look)
        spawn = get_context("spawn")
        with ProcessPoolExecutor(options.workers, mp_context=spawn, initializer=_start, initargs=arguments) as workers:
            for stage in [base, *stages]:
                tasks = [task for task in stage(found, sizes) if task[1] not in found]
                console.print(f"{stage.__name__.replace('_', '-')}: {len(tasks)} runs to do")
                waiting = {workers.submit(_work, task): task for task in tasks}
                try:
                    for n, done in enumerate(as_completed(waiting), 1):
                        key = waiting[done][1]
                        found[key] = done.result()
                        write_json(options.out, results)
                        minutes = (time.perf_counter() - started) / 60
                        console.print(f"  {n} of {len(tasks)}, {minutes:.1f} min: {key}", soft_wrap=True)
                except BaseException:
                    workers.shutdown(wait=False, cancel_futures=True)
                    raise
    for line in tables(found):
        console.print(line, soft_wrap=True)
    base, until = f"Of the {base_line(found)}.", [f"{line.strip().capitalize()}." for line in until_lines(found)]
    for name, title, text, part, (columns, rows), notes in (
        ("quality", "Do the cheaper sources erase as well?", EQUAL, "", by_effort(found), [base]),
        ("until-erased", "Training until the concept is gone", UNTIL, "until-erased", by_rate(found, "until-erased"), until),
    ):
        if rows:
            write_result(
                name, title=title, text=text, command="python -m esd.bench.quality" + (f" --part {part}" if part else ""),
                columns=columns, rows=rows, notes=notes,
                makers=["esd/bench/loop.py", "esd/bench/quality.py", "esd/bench/quality_tables.py"],
            )  # fmt: skip
    console.print(f"all runs: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
