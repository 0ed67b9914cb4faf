"""What a run says before it begins: what it will do, and roughly how long that takes."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from esd.erasing.concepts import Concept
from esd.erasing.trajectories import Pool, WalkingSource
from esd.erasing.walks import predict
from esd.train.build import concept_template_pairs, preserving_examples


def forwards_per_example(cfg: DictConfig) -> float:
    """Forwards of an example, on average; the student's own, with its backward, counts as three."""
    n = cfg.sampling_steps
    walking = {"student": n - 1 + 2, "pool": 2 if cfg.trajectories.get("walker") == "frozen" else 4, "cache": 0}
    return walking[cfg.trajectories.name] + 3


@torch.inference_mode()
def estimated_seconds(cfg: DictConfig, kept: list[Concept], walks: WalkingSource, device: torch.device) -> float:
    """What the training will roughly take: one batch, timed after a first that warms up."""
    rows = torch.zeros(cfg.batch + preserving_examples(cfg, kept), dtype=torch.int64, device=device)
    x = walks.model.noise(rows).to(device)
    for _ in range(2):
        started = time.perf_counter()
        predict(walks.model, walks.student, walks.sampler, x, rows, walks.prompts.condition(rows))[0].sum().item()
        one = time.perf_counter() - started
    warm_up = cfg.sampling_steps / Pool.STRIDE if cfg.trajectories.name == "pool" else 0
    return one * (cfg.steps * forwards_per_example(cfg) + warm_up)


def announce(
    cfg: DictConfig, concepts: list[Concept], kept: list[Concept], walks: WalkingSource, device: torch.device, folder: Path,
    console: Console,
) -> None:  # fmt: skip
    """What will happen, before it does."""
    moved = [p.numel() for p in walks.student.parameters() if p.requires_grad]
    total = sum(p.numel() for p in walks.student.parameters())
    what = ", ".join(f"'{c.text}'" + (f" from '{c.erase_from}'" if c.erase_from else "") for c in concepts[:8])
    what += f" and {len(concepts) - 8} more" if len(concepts) > 8 else ""
    beside = f" and {preserving_examples(cfg, kept)} that preserve" if kept else ""
    seconds = max(1, round(estimated_seconds(cfg, kept, walks, device)))
    rows = {
        "Erase": f"{what} from {cfg.model.name}, η = {cfg.eta:g}"
        + (f", preserving {len(kept)} prompt{'s' * (len(kept) > 1)}" if kept else ""),
        "Train": f"{cfg.layers.name}: {sum(moved):,} of {total:,} parameters in {len(moved)} tensors",
        "Examples": f"{cfg.steps} steps of {cfg.batch}{beside}; x_t from {cfg.trajectories.name}, "
        f"{forwards_per_example(cfg)} forwards each; roughly {seconds} s on {device}",
    }
    if cfg.trajectories.name == "cache":
        count, where = cfg.trajectories.walks * len(concept_template_pairs(walks.prompts)), cfg.trajectories.folder
        rows["Walks"] = f"{count} of {cfg.sampling_steps} steps each, rolled out first where {where} does not hold them"
    rows["Results"] = str(folder)
    for name, text in rows.items():
        console.print(f"[bold]{name:9}[/] {escape(text)}", soft_wrap=True)
