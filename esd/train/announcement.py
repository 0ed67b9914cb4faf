"""What a run says before it begins: what it will do, and roughly how long that takes."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from esd.erasing.concepts import Concept
from esd.erasing.trajectories import Pool, WalkingSource
from esd.train import sweeps
from esd.train.build import concept_template_pairs, preserving_examples
from esd.train.clock import Clock
from esd.train.verdict import Verdict


def forwards_per_example(cfg: DictConfig) -> float:
    """Forwards of an example, on average; the student's own, with its backward, counts as three."""
    n = cfg.sampling_steps
    walking = {"student": n - 1 + 2, "pool": 2 if cfg.trajectories.get("walker") == "frozen" else 4, "cache": 0}
    return walking[cfg.trajectories.name] + 3


def seconds_of(
    cfg: DictConfig, kept: list[Concept], walks: WalkingSource, steps: int, judged: Verdict | str | None
) -> dict[str, float]:
    """What each part of the run will roughly take: steps is how many are left, judged what will be judged."""
    clock = Clock(walks.model, walks.student, walks.sampler, walks.prompts.null(1))
    examples = cfg.batch + preserving_examples(cfg, kept)
    strides = cfg.sampling_steps / Pool.STRIDE if cfg.trajectories.name == "pool" else 0
    grids = 2 + (steps // cfg.grid_every if cfg.grid_every else 0)
    seconds = {
        "rolling out": 0.0,
        "training": clock.seconds_of_forward(examples) * (steps * forwards_per_example(cfg) + strides),
        "drawing": grids * clock.drawing(cfg.grid, min(30, cfg.sampling_steps)),
        "judging": clock.drawing(judged.pictures, judged.steps) if isinstance(judged, Verdict) else 0.0,
    }
    if cfg.trajectories.name == "cache":
        at_once = min(cfg.trajectories.chunk, cfg.trajectories.walks)
        stops = cfg.sampling_steps * cfg.trajectories.walks * len(concept_template_pairs(walks.prompts))
        seconds["rolling out"] = stops / at_once * clock.seconds_of_forward(2 * at_once)
    return {name: spent for name, spent in seconds.items() if spent}


def spoken(seconds: float) -> str:
    """A time for people: "46 s", "4 min 38 s", "2 h 5 min"."""
    seconds = max(1, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def announce(
    cfg: DictConfig, concepts: list[Concept], kept: list[Concept], walks: WalkingSource, done: int,
    judged: Verdict | str | None, folder: Path, console: Console,
) -> None:  # fmt: skip
    """What will happen, before it does. done: the steps that an earlier process made; judged: as verdict_of has it."""
    moved = [p.numel() for p in walks.student.parameters() if p.requires_grad]
    total = sum(p.numel() for p in walks.student.parameters())
    rule = cfg.layers.name + (f", LoRA {cfg.lora.rank}" if cfg.lora.rank else "")
    what = ", ".join(f"'{c.text}'" + (f" from '{c.erase_from}'" if c.erase_from else "") for c in concepts[:8])
    what += f" and {len(concepts) - 8} more" if len(concepts) > 8 else ""
    beside = f" and {preserving_examples(cfg, kept)} that preserve" if kept else ""
    rows = {
        "Erase": f"{what} from {cfg.model.name}, η = {cfg.eta:g}"
        + (f", preserving {len(kept)} prompt{'s' * (len(kept) > 1)}" if kept else ""),
        "Train": f"{rule}: {sum(moved):,} of {total:,} parameters in {len(moved)} tensors",
        "Examples": f"{cfg.steps} steps of {cfg.batch}{beside}; x_t from {cfg.trajectories.name}, "
        f"{forwards_per_example(cfg)} forwards each",
    }
    if cfg.trajectories.name == "cache":
        count, where = cfg.trajectories.walks * len(concept_template_pairs(walks.prompts)), cfg.trajectories.folder
        rows["Walks"] = f"{count} of {cfg.sampling_steps} steps each, rolled out first where {where} does not hold them"
    rows["Results"] = str(folder)
    if isinstance(judged, str):
        rows["Judge"] = f"none: {judged}"

    def say(name: str, text: str) -> None:
        console.print(f"[bold]{name:9}[/] {escape(text)}", soft_wrap=True)

    for name, text in rows.items():
        say(name, text)
    parts = seconds_of(cfg, kept, walks, cfg.steps - done, judged)  # after the rest is said: of a large model it takes a while
    total = sum(parts.values())
    each = ", ".join(f"{name} {spoken(spent)}" for name, spent in parts.items())
    say("Time", f"roughly {spoken(total)} on {walks.student.device}: {each}")
    if place := sweeps.place_in_sweep():
        number, runs = place
        left = f"; roughly {spoken(total * (runs - number + 1))} to the end of the sweep, one run after the other"
        say("Sweep", f"run {number} of {runs}" + (left if number < runs else ""))
