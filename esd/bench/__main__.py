"""python -m esd.bench: what an erasure costs with each source of x_t. About ten minutes on 2 cores with nothing else on them.

Everything is measured side by side in this one process, on the embedded model, training ESD-x for "pizza" in the precision
that training has on this machine; a time is the median of several turns, in which what is compared alternates. Prints the
figures beside their bars, writes outputs/bench.json, and for the results page outputs/gallery/bench.json. How well the
sources erase is esd.bench.quality's to measure.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from esd.bench.bars import rows_of
from esd.bench.cost import costs, layouts, overhead, rolled_out, start_up, step_alone, sweep, switches, until_erased
from esd.bench.loop import store_in
from esd.bench.memory import memory
from esd.command.entry import ArgumentParser, fast_precision
from esd.report.result import processor, write_result

COSTS = """A plain implementation walks from noise to x_t for every example: about 52 forwards, of which 49 are walking. \
`student` is that, the paper's own. `pool` keeps a batch of walks in flight, spread over the schedule: the frozen model's \
predictions at each serve the loss, and the edited model's (with `trajectories.walker=frozen` the frozen model's) the step \
that moves it on. `cache` keeps the frozen model's walks on disk and trains with the student alone."""


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.bench", description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="how often each is timed (5)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="some of the parts; the others stay as they were measured")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench.json"), help="the results' file")
    parser.add_argument("--quality", type=Path, default=Path("outputs/bench-quality.json"), help="esd.bench.quality's results")
    options = parser.parse_args()
    from rich.console import Console
    from rich.table import Table

    from esd import models
    from esd.files import write_json

    console, model = Console(highlight=False), models.load(None, "emoji")
    with tempfile.TemporaryDirectory() as name:
        folder, turns = Path(name), options.turns
        store = store_in(folder / "cache")
        parts: dict[str, Callable[[], dict]] = {
            "roll-out": lambda: rolled_out(model, store),
            "costs": lambda: costs(model, store, turns),
            "step alone": lambda: step_alone(model, store, turns),
            "overhead": lambda: overhead(model, store, folder, 200, min(3, turns)),
            "sweep": lambda: sweep(model, folder / "sweep", 50, 5),
            "memory": memory,
            "start-up": lambda: start_up(turns),
            "layouts": lambda: layouts(model, turns),
            "switches": lambda: switches(model, store, turns),
            "until erased": lambda: until_erased(options.quality),
        }
        for wanted in options.only or ():
            if wanted not in parts:
                parser.error(f"--only {wanted}: it is one of {', '.join(parts)}")
        found = json.loads(options.out.read_text()) if options.only and options.out.is_file() else {}
        found |= {
            "machine": f"{processor()}, {torch.get_num_threads()} threads", "torch": torch.__version__,
            "precision": fast_precision(), "seconds": {**found.get("seconds", {})},
        }  # fmt: skip
        for title in options.only or parts:
            console.print(f"measuring {title} …")
            started = time.perf_counter()
            found[title] = parts[title]()
            found["seconds"][title] = round(time.perf_counter() - started, 1)
            write_json(options.out, found)
    rows = rows_of(found)
    table = Table("figure", "measured", "bar", "holds?", title=f"{found['machine']}, {found['precision']}", box=None)
    for row in rows:
        table.add_row(row.figure, row.measured, row.bar, {True: "yes", False: "NO", None: ""}[row.holds])
    console.print(table)
    notes = [f"{found['machine']}, {found['precision']}, torch {found['torch']}."]
    if "costs" in found:
        student, cached = (found["costs"][name]["seconds"] for name in ("student", "cache"))
        notes.append(
            "The bars of the sweep and of until-erased are aims. A sweep of cached runs can't be more than "
            f"{student / cached:.1f}× faster than `student` runs of the same batch, whatever the runs share: that is what an "
            "example takes by the one and by the other."
        )
    write_json(options.out, {**found, "figures": [row._asdict() for row in rows]})
    write_result(
        "bench", title="Where x_t comes from: what it costs", text=COSTS, command="python -m esd.bench",
        columns=["figure", "measured", "bar", "holds?"],
        rows=[[row.figure, row.measured, row.bar, {True: "yes", False: "**no**", None: ""}[row.holds]] for row in rows],
        makers=["esd/bench/__main__.py", "esd/bench/bars.py", "esd/bench/cost.py", "esd/bench/loop.py", "esd/bench/memory.py"],
        notes=notes,
    )  # fmt: skip
    console.print(f"all figures: {options.out}; {sum(found['seconds'].values()) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
