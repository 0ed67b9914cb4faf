"""The measurements of python -m esd.bench: side by side in one process, on the embedded model."""

from __future__ import annotations

import copy
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from esd.bench.loop import ALONE, BATCH, CASES, DEFAULT, ESD_U, ESD_X, LR, Loop, mixed, store_in
from esd.bench.memory import kept_for_backward
from esd.bench.quality_tables import ratios
from esd.command.entry import CONF
from esd.erasing.cache import Cache
from esd.models.quiet import silence_libraries

silence_libraries()


def counted(loop: Loop, steps: int) -> float:
    """Rows that pass through the U-Nets, for each example."""
    rows = [0]

    def hook(module: nn.Module, args: tuple) -> None:
        rows[0] += len(args[0])

    hooks = [net.register_forward_pre_hook(hook) for net in (loop.module.student, loop.model.denoiser)]
    loop.run(steps)
    for handle in hooks:
        handle.remove()
    return rows[0] / (steps * loop.batch)


def in_turns(loops: dict[str, Loop], steps: dict[str, int], turns: int) -> dict[str, float]:
    """Seconds an example of each, the median over the turns."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(turns):
        for name, loop in loops.items():
            seconds[name].append(loop.run(steps[name]) / (steps[name] * loop.batch))
    return {name: statistics.median(times) for name, times in seconds.items()}


def costs(model, store: Cache, turns: int) -> dict:
    """Forwards and seconds of an example, for every case, after a warm-up."""
    loops = {name: Loop(model, "pizza", *case, store) for name, case in CASES.items()}
    for loop in loops.values():
        loop.run(1)
    forwards = {name: counted(loop, 50 // loop.batch) for name, loop in loops.items()}  # whole rounds of ten
    seconds = in_turns(loops, {name: {ALONE: 10, "student": 2}.get(name, 20) for name in loops}, turns)
    return {name: {"forwards": forwards[name], "seconds": seconds[name]} for name in loops}


def rolled_out(model, store: Cache) -> dict:
    """What the cache costs once."""
    started = time.perf_counter()
    Loop(model, "pizza", "cache", BATCH, store)
    return {"seconds": time.perf_counter() - started, "walks": store.walks}


def step_alone(model, store: Cache, turns: int) -> dict:
    """A step of the default source, in the time that its U-Net forwards and its backward pass take by themselves: those calls
    alone, made again with the same inputs, in turn with whole steps."""
    loop, calls = Loop(model, "pizza", DEFAULT, BATCH, store), []

    def own(value: object) -> object:
        return value.clone() if isinstance(value, torch.Tensor) else value

    def note(net: nn.Module, args: tuple, inputs: dict) -> None:
        calls.append((net, args, inputs, torch.is_inference_mode_enabled()))

    loop.run(2)
    nets = (loop.module.student, loop.model.denoiser)
    hooks = [net.register_forward_pre_hook(note, with_kwargs=True) for net in nets]
    loop.run(1)
    for handle in hooks:
        handle.remove()
    # what was made under inference mode can't be kept for a backward pass, but its copy can
    calls = [
        (net, [own(it) for it in args], {name: own(it) for name, it in inputs.items()}, no_gradient)
        for net, args, inputs, no_gradient in calls
    ]

    def alone() -> float:
        started = time.perf_counter()
        for net, args, inputs, no_gradient in calls:
            with torch.inference_mode(no_gradient), mixed():
                answer = net(*args, **inputs)
            if not no_gradient:
                answer[0].sum().backward()
        return time.perf_counter() - started

    alone()
    median = statistics.median
    pairs = [(median(loop.run(1) for _ in range(5)), median(alone() for _ in range(5))) for _ in range(turns)]
    step, bare = (median(times) for times in zip(*pairs, strict=True))
    return {"step": step, "alone": bare, "ratio": median(its / the_calls for its, the_calls in pairs), "calls": len(calls)}


def sweep(model, folder: Path, steps: int, timed: int) -> dict:
    """A sweep of 12 runs (3 η × 2 layers × 2 lr, one concept) of `steps` steps from one cache, its roll-out included, against
    12 runs by the student source of the same examples, of each of which `timed` steps are run and the rest reckoned."""
    runs = list(itertools.product((0.5, 1.0, 2.0), (ESD_X, ESD_U), (1e-4, 3e-4)))
    totals = {}
    for source, made in (("cache", steps), ("student", timed)):
        totals[source] = 0.0
        for eta, rule, lr in runs:
            started = time.perf_counter()
            loop = Loop(model, "guitar", source, BATCH, store_in(folder), lr=lr, rule=rule)
            loop.module.prompts.eta.fill_(eta)
            built = time.perf_counter() - started
            totals[source] += built + loop.run(made) * steps / made
    return {**totals, "ratio": totals["student"] / totals["cache"], "steps a run": steps, "of the student's timed": timed}


def overhead(model, store: Cache, folder: Path, steps: int, turns: int) -> dict:
    """A run's configuration composed by Hydra, its trainer built from it, and so many steps by Lightning with the bar and a
    logger, against the bare loop of the same steps."""
    import pytorch_lightning as pl
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate
    from pytorch_lightning.loggers import CSVLogger
    from torch.utils.data import DataLoader

    import esd.train.options  # noqa: F401  (registers the options' types)
    from esd.erasing.bar import ErasingBar
    from esd.erasing.logged_figures import LoggedFigures

    marks: list[float] = []

    class Clock(pl.Callback):
        def on_train_batch_end(self, *args) -> None:
            marks.append(time.perf_counter())

    def by_lightning() -> tuple[float, float]:
        loop = Loop(model, "pizza", DEFAULT, BATCH, store)
        del loop.module.log_loss
        marks.clear()
        started = time.perf_counter()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", ["concept=pizza", f"batch={BATCH}", f"lr={LR}", f"steps={steps}", "trainer=cpu"])
        loop.module.optimizer, loop.module.schedule = instantiate(cfg.optimizer), instantiate(cfg.schedule)
        trainer = instantiate(
            cfg.trainer, _convert_="all", max_steps=steps, limit_train_batches=steps, logger=CSVLogger(folder),
            callbacks=[ErasingBar(refresh_rate=5), LoggedFigures(), Clock()], default_root_dir=folder,
            enable_checkpointing=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(loop.module, DataLoader(loop.dataset, batch_size=None))
        return time.perf_counter() - started, (marks[-1] - marks[0]) / (steps - 1)

    def bare() -> tuple[float, float]:
        loop = Loop(model, "pizza", DEFAULT, BATCH, store)
        first = loop.run(1)
        rest = loop.run(steps - 1)
        return first + rest, rest / (steps - 1)

    pairs = []
    for turn in range(turns):
        if turn % 2:
            ours, theirs = by_lightning(), bare()
        else:
            theirs, ours = bare(), by_lightning()
        pairs.append((ours, theirs))
    whole, step = ([ours[i] / theirs[i] for ours, theirs in pairs] for i in range(2))
    once = [ours[0] - theirs[0] - (steps - 1) * (ours[1] - theirs[1]) for ours, theirs in pairs]
    median = statistics.median
    return {"whole": median(whole), "step": median(step), "seconds once": median(once), "steps": steps, "turns": whole}


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


def copied(model, change: Callable[[nn.Module], object]):
    """The model with a teacher of its own, changed."""
    other = copy.copy(model)
    other.denoiser = copy.deepcopy(model.denoiser)
    change(other.denoiser)
    return other


def layouts(model, turns: int) -> dict:
    """Sample-forwards a second without gradients, of 20 rows at once, in each precision and memory layout."""
    x, t = model.noise(range(20)), torch.full((20,), 500)
    condition = model.encode(["a pizza"] * 20)
    wide = copied(model, lambda net: net.to(memory_format=torch.channels_last))
    cases = {
        (precision, layout): (net, precision)
        for layout, net in {"default": model.denoiser, "channels_last": wide.denoiser}.items()
        for precision in ("32-true", "bf16-mixed")
    }
    rates: dict[tuple, list[float]] = {case: [] for case in cases}
    for _ in range(turns + 1):
        for case, (net, precision) in cases.items():
            started = time.perf_counter()
            with torch.inference_mode(), mixed(precision):
                for _ in range(3):
                    model.predict(net, x, t, condition)
            rates[case].append(3 * len(x) / (time.perf_counter() - started))
    return {", ".join(case): statistics.median(rate[1:]) for case, rate in rates.items()}


def switches(model, store: Cache, turns: int) -> dict:
    """A step of the pool with one option changed at a time: seconds an example, and the bytes that the student's forward
    keeps for its backward pass."""
    wide = copied(model, lambda net: net.to(memory_format=torch.channels_last))
    compiled = copied(model, lambda net: None)
    loops = {
        "as trained": Loop(model, "pizza", DEFAULT, BATCH, store),
        "float32": Loop(model, "pizza", DEFAULT, BATCH, store, precision="32-true"),
        "channels_last": Loop(wide, "pizza", DEFAULT, BATCH, store),
        "gradient_checkpointing": Loop(model, "pizza", DEFAULT, BATCH, store),
        "compile": Loop(compiled, "pizza", DEFAULT, BATCH, store),
    }
    loops["gradient_checkpointing"].module.student.enable_gradient_checkpointing()
    kept = {name: kept_for_backward(loops[name]) for name in ("as trained", "gradient_checkpointing")}
    for net in (compiled.denoiser, loops["compile"].module.student):
        net.compile()
    found: dict = {"bytes kept": kept, "seconds to compile": None}
    started = time.perf_counter()
    try:
        loops["compile"].run(3)  # of which the last is compiled already
        found["seconds to compile"] = time.perf_counter() - started
    except Exception as error:  # noqa: BLE001  (no C++ compiler here, most likely)
        del loops["compile"]
        found["not compiled"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    for loop in loops.values():
        loop.run(2)
    seconds = in_turns(loops, dict.fromkeys(loops, 10), turns)
    return {**found, "seconds": seconds, "against as trained": {name: s / seconds["as trained"] for name, s in seconds.items()}}


def until_erased(file: Path) -> dict:
    """Of each source, how many times less training time than `student` it took; nothing where it was not measured."""
    return ratios(json.loads(file.read_text())) if file.is_file() else {}
