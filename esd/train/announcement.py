"""What a run says before it begins: what it will do, and roughly how long that takes.

Imports nothing heavy: the first line stands there while torch and the libraries around it are loaded.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from esd.command.checks import texts
from esd.command.signals import IS_MAIN_PROCESS
from esd.models.prediction import spoken_of
from esd.train import sweeps
from esd.train.options import is_to_be_found

if TYPE_CHECKING:
    from esd.erasing.run import Run
    from esd.models.family import Model
    from esd.train.verdict import Verdict

console = Console(highlight=False, quiet=not IS_MAIN_PROCESS)


def forwards_per_example(run: Run) -> float:
    """Forwards of an example, on average; the student's own, with its backward, counts as three."""
    return run.options.trajectories.forwards(len(run.sampler)) + 3


def seconds_of(cfg: DictConfig, run: Run, steps: int, judged: Verdict | str | None) -> dict[str, float]:
    """What each part of the run will roughly take: steps is how many are left, judged what will be judged."""
    from esd.train.clock import Clock  # it imports torch
    from esd.train.verdict import Verdict

    clock = Clock(run.model, run.student, run.sampler, run.prompts.null(1))
    source, examples = run.options.trajectories, run.options.batch + run.options.preserving_batch
    forwards = (steps * forwards_per_example(run) + source.forwards_to_start(len(run.sampler))) if steps else 0
    attacked = steps * 3 * (run.options.robust.inner + 1) if run.options.robust else 0  # forwards at q, and backwards as two
    rolled, at_once = source.roll_out(run.denoisers)
    grids = 2 + (steps // cfg.grid_every if cfg.grid_every else 0)
    seconds = {
        "rolling out": rolled * clock.seconds_of_forward(at_once) if rolled else 0.0,
        "training": clock.seconds_of_forward(examples) * forwards
        + (clock.seconds_of_forward(run.options.batch) * attacked if attacked else 0),
        "drawing": grids * clock.drawing(cfg.grid, grid_steps(cfg)),
        "judging": clock.drawing(judged.pictures, judged.steps) if isinstance(judged, Verdict) else 0.0,
    }
    return {name: spent for name, spent in seconds.items() if spent}


def grid_steps(cfg: DictConfig) -> int:
    """Of a grid's picture."""
    return min(cfg.model.get("picture_steps", 30), cfg.sampling_steps)


def spoken(seconds: float) -> str:
    """A time for people: "46 s", "4 min 38 s", "2 h 5 min"."""
    seconds = max(1, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def model_taken(model: Model) -> str:
    """What was taken for the model: what it predicts, at what size, in which precision, from which files."""
    _, high, wide = model.latent_shape
    factor = model.base.vae_scale_factor
    stored = str(next(p.dtype for p in model.denoiser.parameters() if p.dim() > 1)).removeprefix("torch.")
    disk = str(model.on_disk).removeprefix("torch.")
    return (
        f"predicts {spoken_of(model.scheduler)}, {wide * factor}×{high * factor} pixels, {stored}"
        f"{'' if stored == disk else f' (on disk {disk})'}, from {model.source}"
    )


def say(name: str, text: str) -> None:
    console.print(f"[bold]{name:9}[/] {escape(text)}", soft_wrap=True)


def announce_erasing(cfg: DictConfig) -> None:
    """The first line, as soon as the options are known to be right: what is erased."""
    concepts = texts(cfg.concept, "concept")
    sources = texts(cfg.erase_from, "erase_from") if cfg.erase_from else [""]  # one for each, or one for all
    concepts = [f"what {cfg.trajectories.images} shows"] if is_to_be_found(cfg) else [f"'{text}'" for text in concepts]
    named = [text + (f" from '{f}'" if f else "") for text, f in zip(concepts, itertools.cycle(sources), strict=False)]
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    say("Erase", f"{', '.join(named[:8])}{more} from {cfg.model.name}, η = {cfg.eta:g}")


def announce(cfg: DictConfig, run: Run, done: int, judged: Verdict | str | None, folder: Path) -> None:
    """What will happen, before it does. done: the steps that an earlier process made; judged: as verdict_of has it."""
    o = run.options
    moved = [p.numel() for p in run.student.parameters() if p.requires_grad]
    total = sum(p.numel() for p in run.student.parameters())
    rule = o.layers.name + (f", LoRA {o.lora[0]}" if o.lora else "")
    prompts = f"{len(o.preserved)} prompt{'s' * (len(o.preserved) > 1)}"
    beside = f" and {o.preserving_batch} that preserve {prompts}" if o.preserved else ""
    attacked = ", an adversary beside each" if o.robust else ""
    rows = {
        **({"Model": model_taken(run.model)} if hasattr(run.model, "source") else {}),  # a loader of one's own may not say
        "Train": f"{rule}: {sum(moved):,} of {total:,} parameters in {len(moved)} tensors",
        **({"Start": f"keys and values solved in closed form, μ = {o.closed_form:g}"} if o.closed_form else {}),
        "Examples": f"{o.steps} steps of {o.batch}{beside}{attacked}; x_t from {o.trajectories.name}, "
        f"{forwards_per_example(run):g} forwards each",
    }
    if not o.steps:
        del rows["Examples"]
    if preparation := o.trajectories.preparation(run.denoisers):
        rows["Walks"] = preparation
    rows["Results"] = str(folder)
    if isinstance(judged, str):
        rows["Judge"] = f"none: {judged}"

    for name, text in rows.items():
        say(name, text)
    parts = seconds_of(cfg, run, o.steps - done, judged)  # after the rest is said: of a large model it takes a while
    total = sum(parts.values())
    each = ", ".join(f"{name} {spoken(spent)}" for name, spent in parts.items())
    say("Time", f"roughly {spoken(total)} on {run.device}" + (f": {each}" if each else ""))
    if place := sweeps.place_in_sweep():
        number, runs = place
        left = f"; roughly {spoken(total * (runs - number + 1))} to the end of the sweep, one run after the other"
        say("Sweep", f"run {number} of {runs}" + (left if number < runs else ""))
