"""python -m esd.bench.lora: does a LoRA of rank 16 erase as well as whole weights? About fifteen minutes of one core.

The embedded model, ESD-x, the pool of walks by the student, batch 10; eight objects as `esd.train` erases them and two
styles with the objects preserved, from the same noise, by whole weights and by LoRA. The judge looks at 18 pictures of the
concept by name, as many in styles, and one of every third other object. The LoRA's learning rate was chosen by --tune, on
concepts that the table does not hold. Prints the table, leaves it in outputs/gallery/lora.json; goes on where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from esd.bench.loop import BATCH, DEFAULT, ESD_X, Loop
from esd.bench.quality import Bench, Look
from esd.command.entry import ArgumentParser, fast_precision
from esd.metrics.counts import wilson
from esd.protocols import emoji

RANK = 16
OBJECTS = ("pizza", "owl", "rocket", "guitar", "cactus", "crab", "house", "banana")
STYLES = ("openmoji", "twemoji")
TUNED_ON = ("camera", "dog", "noto")  # not in the table
LOOK = Look(pictures=18, every=3, steps=15)


class Kind(NamedTuple):
    """How concepts of a kind are erased. lr: by whole weights, by LoRA. falling: lr falls to 0 along a cosine."""

    lr: tuple[float, float]
    steps: int
    falling: bool = False
    templates: tuple[str, ...] = ("{}",)


OBJECT = Kind((2e-4, 5e-4), 60)
STYLE = Kind((1e-3, 2.5e-3), 120, True, ("{}", "{} style", "an emoji in the style of {}"))
TRIED = {OBJECT: (5e-4, 1e-3), STYLE: (1e-3, 2.5e-3)}  # by LoRA


def kind_of(concept: str) -> Kind:
    from esd.emoji import words

    return OBJECT if concept in words.OBJECTS else STYLE


def erased(bench: Bench, concept: str, rank: int | None, lr: float) -> dict:
    """The counts after one erasure: {"seen": [of the concept's pictures, how many], "kept": …, "seconds": of training}."""
    import torch

    kind = kind_of(concept)
    preserve = emoji.other_objects([concept]) if kind is STYLE else ()
    loop = Loop(bench.model, concept, DEFAULT, BATCH, bench.store, lr=lr, rank=rank, templates=kind.templates,
                preserve=preserve, spread=False, rule=ESD_X)  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(loop.optimizer, kind.steps) if kind.falling else None
    seconds = 0.0
    for _ in range(kind.steps):
        seconds += loop.run(1)
        if schedule:
            schedule.step()
    trained = sum(p.numel() for p in loop.module.student.parameters() if p.requires_grad)
    return {"seconds": round(seconds, 1), "trained": trained, **bench.outcome(loop.module.student, concept)}


def cell(count: list[int]) -> str:
    low, high = wilson(*count)
    return f"{100 * count[0] / count[1]:.1f} % ({100 * low:.1f}–{100 * high:.1f}) of {count[1]}"


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.bench.lora", description=__doc__)
    parser.add_argument("--tune", action="store_true", help=f"the LoRA's learning rates, on {', '.join(TUNED_ON)}")
    parser.add_argument("--concepts", nargs="+", default=[*OBJECTS, *STYLES], metavar="CONCEPT", help="what is erased")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/bench-lora.json"), help="all counts: what is there is not done again"
    )
    options = parser.parse_args()
    from esd.files import write_json
    from esd.report.result import write_result

    bench = Bench("outputs/cache", 1, LOOK)
    settings = {"base_hash": bench.model.base_hash, "rank": RANK, "look": list(LOOK), "batch": BATCH}
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    if any(found.get(key) != value for key, value in settings.items()):
        found = {**settings, "runs": {}, "tuning": {}}

    def measured(part: str, name: str, of) -> dict:
        if name not in found[part]:
            found[part][name] = of()
            write_json(options.out, found)
            print(f"{name}: {found[part][name]}", flush=True)
        return found[part][name]

    if options.tune:
        for concept in TUNED_ON:
            for lr in TRIED[kind_of(concept)]:
                measured("tuning", f"{concept}, LoRA {RANK}, lr {lr:g}", lambda c=concept, r=lr: erased(bench, c, RANK, r))
        return
    rows = {}
    for concept in options.concepts:
        kind = kind_of(concept)
        rows[concept] = [
            measured("runs", f"{concept}, base", lambda c=concept: bench.base(c)),
            measured("runs", f"{concept}, whole", lambda c=concept, k=kind: erased(bench, c, None, k.lr[0])),
            measured("runs", f"{concept}, LoRA", lambda c=concept, k=kind: erased(bench, c, RANK, k.lr[1])),
        ]
    for name, among in (("all objects", OBJECTS), ("all styles", STYLES)):
        if group := [rows[concept] for concept in among if concept in rows]:
            rows[name] = [
                {figure: [sum(row[i][figure][part] for row in group) for part in (0, 1)] for figure in ("seen", "kept")}
                for i in range(3)
            ]
    columns = ["erased", "seen: base", "whole weights", f"LoRA {RANK}", "others right: base", "whole", f"with LoRA {RANK}"]
    lines = [[name, *(cell(made[figure]) for figure in ("seen", "kept") for made in row)] for name, row in rows.items()]
    for line in (columns, ["---"] * len(columns), *lines):
        print(f"| {' | '.join(line)} |")
    if set(options.concepts) >= {*OBJECTS, *STYLES}:
        text = (
            f"ESD-x by whole weights and by LoRA of rank {RANK}, from the same noise: rates with 95 % intervals. Objects: "
            f"{OBJECT.steps} steps, lr {OBJECT.lr[0]:g} and {OBJECT.lr[1]:g}; styles: {STYLE.steps} steps, lr {STYLE.lr[0]:g} "
            f"and {STYLE.lr[1]:g} falling to 0, the objects preserved. {fast_precision()}, DDIM {LOOK.steps}."
        )
        makers = ["esd/bench/lora.py", "esd/bench/loop.py", "esd/erasing"]
        command = "python -m esd.bench.lora"
        write_result("lora", title="LoRA", text=text, command=command, columns=columns, rows=lines, makers=makers)


if __name__ == "__main__":
    main()
