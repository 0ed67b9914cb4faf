"""python -m esd.bench: what an example costs with each source of x_t. About ten minutes on 2 cores.

Everything is measured side by side in this one process, on the embedded model, training ESD-x for "pizza"; each figure is
the median of several turns, in which the sources alternate. Prints a table, writes outputs/bench.json.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from esd.quiet import quiet

RULE = {"name": "esd-x", "include": [r"\.attn2\."], "modules": ["Linear"]}
CASES = {  # name: (source, walker, batch)
    "student, batch 1": ("student", "", 1),
    "student, batch 10": ("student", "", 10),
    "pool, frozen walks": ("pool", "frozen", 10),
    "pool, student walks": ("pool", "student", 10),
    "cache": ("cache", "", 10),
}
N = 50  # positions of the schedule


class Loop:
    """A bare training loop of one source: no Lightning, no logger. What is timed and counted."""

    def __init__(self, model, concept: str, source: str, walker: str, batch: int, seed: int, lr: float, store, rule=RULE):
        import torch

        from esd import layers
        from esd.concepts import Concept, Draws
        from esd.erasure import Erasure
        from esd.phrases import Phrases
        from esd.trajectories import Cache, Fresh, Pool, Walks

        self.model, self.batch = model, batch
        trained = layers.select(model.denoiser, layers.Rule(**rule))
        student = layers.student_of(model.denoiser, trained)
        sampler, phrases = model.sampler(N), Phrases(model, [Concept(concept)], ["{}"])
        parts = (model, sampler, phrases, 3.0, model.denoiser, student)
        if source == "cache":
            trajectories = Cache([[store.get(Walks(*parts), 0, 0, lambda n: None)]], phrases)
        else:
            trajectories = Fresh(*parts) if source == "student" else Pool(*parts, walker=walker)
        self.module = Erasure(model, student, trained, phrases, sampler, trajectories, None, None)
        self.module.report = lambda *args: None  # no trainer to report to
        self.draws: Iterator = iter(
            Draws(concepts=1, templates=1, positions=N, batch=batch, seed=seed, staggered=source == "pool",
                  walks=store.walks if source == "cache" else None)
        )  # fmt: skip
        self.optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr)

    def run(self, steps: int) -> float:
        """So many steps; the seconds they took."""
        started = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.module.training_step(next(self.draws), 0).backward()
            self.optimizer.step()
        return time.perf_counter() - started


def counted(loop: Loop, steps: int) -> float:
    """Rows that pass through the U-Nets, for each example."""
    rows = [0]

    def hook(module, args):
        rows[0] += len(args[0])

    hooks = [net.register_forward_pre_hook(hook) for net in {loop.module.student, loop.model.denoiser}]
    loop.run(steps)
    for handle in hooks:
        handle.remove()
    return rows[0] / (steps * loop.batch)


def costs(model, store, turns: int) -> dict:
    """Forwards and seconds of an example, for every case, in alternating turns after a warm-up."""
    loops = {name: Loop(model, "pizza", *case, seed=0, lr=3e-4, store=store) for name, case in CASES.items()}
    for loop in loops.values():
        loop.run(3)
    forwards = {name: counted(loop, 50 if loop.batch == 1 else 10) for name, loop in loops.items()}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(turns):
        for name, loop in loops.items():
            steps = {"student, batch 1": 12, "student, batch 10": 3}.get(name, 20)
            seconds[name].append(loop.run(steps) / (steps * loop.batch))
    return {name: {"forwards": forwards[name], "seconds": statistics.median(seconds[name])} for name in loops}


def rolled_out(model, store) -> dict:
    """What the cache costs once."""
    started = time.perf_counter()
    Loop(model, "pizza", "cache", "", 10, 0, 3e-4, store)
    return {"seconds": time.perf_counter() - started, "walks": store.walks}


def sweep(model, folder: Path, steps: int) -> dict:
    """A sweep of 12 runs (3 η × 2 layers × 2 lr, one concept) from one cache, its roll-out included, against 12 runs by
    the student source of the same number of examples at the same batch."""
    rules = [RULE, {"name": "esd-u", "exclude": [r"\.attn2\."], "modules": ["Linear", "Conv2d"]}]
    runs = [(eta, rule, lr) for eta in (0.5, 1.0, 2.0) for rule in rules for lr in (1e-4, 3e-4)]
    totals = {}
    for source in ("cache", "student"):
        store, started = store_in(folder / "sweep"), time.perf_counter()
        for eta, rule, lr in runs:
            loop = Loop(model, "guitar", source, "", 10, 0, lr, store, rule)
            loop.module.phrases.eta.fill_(eta)
            loop.run(steps)
        totals[source] = time.perf_counter() - started
    return {**totals, "ratio": totals["student"] / totals["cache"], "examples a run": 10 * steps}


def memory() -> dict:
    """Bytes beyond one U-Net for ESD-x on Stable Diffusion 1.4's configuration: the student's own weights and Adam's."""
    import torch

    from esd import layers
    from esd.models.sizes import sd14_unet

    with torch.device("meta"):
        teacher = sd14_unet()
    size = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)  # noqa: E731
    one = size(teacher.parameters())
    trained = layers.select(teacher, layers.Rule(**RULE))
    student = layers.student_of(teacher, trained)
    shared = {id(p) for p in teacher.parameters()}
    own = size(p for p in student.parameters() if id(p) not in shared)
    return {"one U-Net": one, "beyond it": own + 2 * own, "ratio": 3 * own / one}


def overhead(model, store, turns: int) -> dict:
    """Lightning with its hooks and its data loader against the bare loop, the same steps of the pool."""
    import pytorch_lightning as pl
    import torch
    from torch.utils.data import DataLoader

    from esd.concepts import Draws

    def by_lightning(steps: int) -> float:
        loop = Loop(model, "pizza", "pool", "frozen", 10, 0, 3e-4, store)
        del loop.module.report
        loop.module.optimizer = lambda parameters: torch.optim.Adam(parameters, 3e-4)
        loop.module.schedule = lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        draws = Draws(concepts=1, templates=1, positions=N, batch=10, seed=0, staggered=True)
        marks: list[float] = []

        class Clock(pl.Callback):
            def on_train_batch_end(self, *args) -> None:
                marks.append(time.perf_counter())

        pl.Trainer(
            max_steps=steps, limit_train_batches=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=10, callbacks=[Clock()],
        ).fit(loop.module, DataLoader(draws, batch_size=None))  # fmt: skip
        return (marks[-1] - marks[0]) / (steps - 1)

    bare = Loop(model, "pizza", "pool", "frozen", 10, 0, 3e-4, store)
    bare.run(3)
    pairs = [(by_lightning(60), bare.run(60) / 60) for _ in range(turns)]
    ratios = [lightning / loop for lightning, loop in pairs]
    return {"ratio": statistics.median(ratios), "turns": [round(ratio, 3) for ratio in ratios]}


def start_up(turns: int) -> dict:
    """Seconds until --help is there, and until a bad option is answered."""
    found = {}
    for name, arguments in {"--help": ["--help"], "bad option": ["concept=pizza", "eta=abc"]}.items():
        seconds = []
        for _ in range(turns):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "esd.train", *arguments], capture_output=True)
            seconds.append(time.perf_counter() - started)
        found[name] = statistics.median(seconds)
    return found


def store_in(folder: Path, walks: int = 20):
    import torch

    from esd.cache import Store

    return Store(folder, walks=walks, seed=0, dtype=torch.float16, chunk=32, limit=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--sweep-steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench.json"))
    options = parser.parse_args()
    quiet()
    import torch
    from rich.console import Console
    from rich.table import Table

    from esd import models
    from esd.files import write_json

    console, model = Console(highlight=False), models.load(None, "emoji")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = store_in(folder / "cache")
        found: dict = {
            "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
        }
        steps: dict[str, Callable[[], dict]] = {
            "roll-out": lambda: rolled_out(model, store),
            "costs": lambda: costs(model, store, options.turns),
            "overhead": lambda: overhead(model, store, options.turns),
            "sweep": lambda: sweep(model, folder, options.sweep_steps),
            "memory": memory,
            "start-up": lambda: start_up(options.turns),
        }
        for title, measure in steps.items():
            console.print(f"measuring {title} …")
            found[title] = measure()
    one, ten = (found["costs"][f"student, batch {n}"]["seconds"] for n in (1, 10))
    table = Table("source", "forwards an example", "seconds an example", "× student, batch 1", "× student, batch 10", box=None)
    for name, cost in found["costs"].items():
        ratios = [f"{base / cost['seconds']:.1f}" for base in (one, ten)]
        table.add_row(name, f"{cost['forwards']:.1f}", f"{cost['seconds']:.4f}", *ratios)
    console.print(table)
    console.print(f"roll-out of {found['roll-out']['walks']} walks, once: {found['roll-out']['seconds']:.1f} s")
    console.print(f"sweep of 12 runs: {found['sweep']['ratio']:.1f} times as fast from one cache as by the student source")
    console.print(f"ESD-x on SD 1.4: {100 * found['memory']['ratio']:.1f} % of a U-Net beyond one U-Net")
    console.print(f"Lightning against a bare loop: {100 * (found['overhead']['ratio'] - 1):+.1f} %")
    console.print(", ".join(f"{name} in {seconds:.2f} s" for name, seconds in found["start-up"].items()))
    write_json(options.out, found)
    console.print(f"all figures: {options.out}")


if __name__ == "__main__":
    main()
