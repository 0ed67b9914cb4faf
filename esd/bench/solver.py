"""python -m esd.bench.solver: do the counts of the protocol's solver agree with those of DDIM in 30 steps?

Draws the same rows twice, from the same noise, with the base model (every object, every style) and with a few edits that are
trained here, and has them judged. Prints the counts side by side, and how many times sooner they
are drawn and judged; the table goes to outputs/gallery/solver.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from torch import nn

from esd.bench.loop import DEFAULT, Loop, mixed, store_in
from esd.models.family import Model
from esd.protocols import Row, emoji
from esd.sample.sampling import sample

GROUPS = {
    "seen": ("erased", "erased_styled", "erased_words"), "other objects right": ("lookalikes", "kept"),
    "other styles right": ("kept_styles",),
}  # fmt: skip
SOLVERS = {"DDIM, 30 steps": (30, "own"), "the protocol's": (emoji.STEPS, emoji.SAMPLER)}
TEXT = f"""The embedded model's protocol draws with DPM-Solver++ of second order in {emoji.STEPS} steps, where it drew with \
DDIM in 30. Beside each other, from the same prompts and noise: in how many pictures the judge sees what was asked. *Base \
model* is every object and one style of each, without an edit."""


def counts(rows: list[Row], model: Model, denoiser: nn.Module, steps: int, sampler: str) -> tuple[dict[str, list[int]], float]:
    """Of every group [pictures, of], and the seconds of drawing and judging."""
    look = {"steps": steps, "sampler": sampler, "guidance": emoji.GUIDANCE}
    started = time.process_time()
    with mixed():
        drawn = sample(model, denoiser, [row.prompt for row in rows], [row.seed for row in rows], **look)
    found = emoji.measure_pictures(rows, drawn)
    seconds = time.process_time() - started
    sums = {
        name: [sum(found[group][part] for group in groups if group in found) for part in ("hits", "of")]
        for name, groups in GROUPS.items()
    }
    return {name: pair for name, pair in sums.items() if pair[1]}, seconds


def base_rows(pictures: int) -> list[Row]:
    """Every object by name, so many of each, and every object in a style."""
    asked = emoji.rows([], 0, 0, pictures)
    return [row for row in asked if row.group in ("kept", "kept_styles")]


def main() -> None:
    from esd.command.entry import ArgumentParser

    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=["banana", "panda", "noto"], help="erased (banana panda noto)")
    parser.add_argument("--steps", type=int, default=60, help="of an erasure")
    parser.add_argument("--pictures", type=int, default=2, help="of each object, by the base model")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench-solver.json"), help="the results' file")
    options = parser.parse_args()

    from esd import models
    from esd.files import write_json
    from esd.report.result import write_result

    model = models.load(None, "emoji")
    solvers = [list(solver) for solver in SOLVERS.values()]
    settings = {"steps": options.steps, "pictures": options.pictures, "base": model.base_hash, "solvers": solvers}
    results = json.loads(options.out.read_text()) if options.out.is_file() else {}
    if results.get("settings") != settings:
        results = {"settings": settings, "figures": {}}
    found = results["figures"]
    for concept in ("", *options.concepts):
        if concept in found:
            continue
        denoiser, rows = model.denoiser, base_rows(options.pictures)
        if concept:
            rows = [row for row in emoji.rows([concept], **emoji.SHORT) if row.group != "kept_source"]
            with tempfile.TemporaryDirectory() as folder:
                loop = Loop(model, concept, DEFAULT, 10, store_in(Path(folder)), spread=False)
                loop.run(options.steps)
            denoiser = loop.module.student
        found[concept] = {name: counts(rows, model, denoiser, *solver) for name, solver in SOLVERS.items()}
        write_json(options.out, results)
        print(concept or "base model", found[concept], flush=True)

    rows = []
    for concept, by_solver in found.items():
        old, new = by_solver.values()
        for group in old[0]:
            (hits, of), (other, _) = old[0][group], new[0][group]
            cells = [f"{hits} of {of}", f"{other} of {of}", f"{100 * (other - hits) / of:+.1f}"]
            rows.append([f"without {concept}" if concept else "base model", group, *cells, f"{old[1] / new[1]:.1f}×"])
    write_result(
        "solver", title="Pictures in fewer steps", text=TEXT, command="python -m esd.bench.solver",
        columns=["model", "counted", *SOLVERS, "points", "faster"], rows=rows,
        makers=["esd/bench/solver.py", "esd/models/samplers.py"],
        notes=[f"Edits: {options.steps} steps of 10, ESD-x, from the default source."],
    )  # fmt: skip


if __name__ == "__main__":
    main()
