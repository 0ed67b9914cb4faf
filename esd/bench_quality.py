"""python -m esd.bench_quality: do the cheaper sources of x_t erase as well as the paper's? About an hour on 2 cores.

Six concepts (four objects, a style, a category) × ESD-x and ESD-u × three seeds, each trained by every source from the
same start, (a) for the same number of steps at the same batch, (b) for the same training time. Prints what is still seen
of the concept and what is kept of the rest, with 95 % intervals over all pictures; writes outputs/bench-quality.json
after every run, and goes on from there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from esd.quiet import quiet

CONCEPTS = ["pizza", "owl", "rocket", "umbrella", "twemoji style", "weapon"]
RULES = {
    "esd-x": {"name": "esd-x", "include": [r"\.attn2\."], "modules": ["Linear"]},
    "esd-u": {"name": "esd-u", "exclude": [r"\.attn2\."], "modules": ["Linear", "Conv2d"]},
}
LR = {"esd-x": 2e-4, "esd-u": 5e-5}
SOURCES = {
    "student": ("student", ""),
    "pool frozen": ("pool", "frozen"),
    "pool student": ("pool", "student"),
    "cache": ("cache", ""),
}
BATCH = 10


def trained(model, store, concept: str, layers: str, seed: int, source: str, steps: int, seconds: float):
    """A bare loop of this source, for `steps` steps or for `seconds` of training, whichever ends first; (loop, took, made)."""
    from esd.bench import Loop

    loop = Loop(model, concept, *SOURCES[source], BATCH, seed, LR[layers], store, RULES[layers])
    took, made = 0.0, 0
    while made < steps and took < seconds:
        took += loop.run(1)
        made += 1
    return loop, took, made


def judged(model, denoiser, concept: str) -> dict:
    """Counts of the concept still seen and of the other objects kept, from the same noise for every run."""
    from esd.emoji import protocol

    rows = [row for row in protocol.rows([concept], 12, 1) if row.group != "kept_styles"]
    rows = [row for row in rows if row.group != "kept"] + [row for row in rows if row.group == "kept"][::2]
    found = protocol.judged(rows, protocol.draw(model, denoiser, rows))
    seen = [found[group] for group in ("erased", "erased_styled") if group in found]
    return {
        "seen": [sum(f["hits"] for f in seen), sum(f["of"] for f in seen)],
        "kept": [found["kept"]["hits"], found["kept"]["of"]],
    }


def table_of(found: dict, title: str, mode: str):
    from rich.table import Table

    from esd.metrics.counts import counted

    table = Table("source", "layers", "still seen", "kept", "steps", "seconds", title=title, box=None)
    for layers in RULES:
        for source in SOURCES:
            runs = [run for run in found.values() if (run["mode"], run["layers"], run["source"]) == (mode, layers, source)]
            if not runs:
                continue
            cells = []
            for part in ("seen", "kept"):
                count = counted(sum(run[part][0] for run in runs), sum(run[part][1] for run in runs))
                low, high = (100 * x for x in count["interval"])
                cells.append(f"{100 * count['rate']:.1f} % ({low:.1f} to {high:.1f})")
            mean = [sum(run[key] for run in runs) / len(runs) for key in ("steps", "seconds")]
            table.add_row(source, layers, *cells, f"{mean[0]:.0f}", f"{mean[1]:.1f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench-quality.json"))
    options = parser.parse_args()
    quiet()
    import tempfile

    from rich.console import Console

    from esd import models
    from esd.bench import store_in
    from esd.files import write_json

    console, model = Console(highlight=False), models.load(None, "emoji")
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    runs = [(c, x, s) for s in range(options.seeds) for x in RULES for c in CONCEPTS]
    console.print(f"{len(runs) * 8} runs, {len(found)} of them done; to {options.out}")
    with tempfile.TemporaryDirectory() as name:
        store = store_in(Path(name))
        started = time.perf_counter()
        for concept, layers, seed in runs:
            for mode in ("same steps", "same time"):
                for source in SOURCES:
                    key = f"{mode}/{concept}/{layers}/{seed}/{source}"
                    if key in found:
                        continue
                    if mode == "same steps":
                        limit = (options.steps, float("inf"))
                    else:  # a fifth of what the student source took: in the whole of it every source is done
                        limit = (10**9, found[f"same steps/{concept}/{layers}/{seed}/student"]["seconds"] / 5)
                    loop, took, made = trained(model, store, concept, layers, seed, source, *limit)
                    run = {"mode": mode, "concept": concept, "layers": layers, "seed": seed, "source": source}
                    found[key] = {**run, "steps": made, "seconds": took, **judged(model, loop.module.student, concept)}
                    write_json(options.out, found)
            console.print(f"{concept}, {layers}, seed {seed}: {time.perf_counter() - started:.0f} s in all")
    console.print(table_of(found, f"{options.steps} steps of {BATCH}", "same steps"))
    console.print(table_of(found, "the same training time", "same time"))


if __name__ == "__main__":
    main()
