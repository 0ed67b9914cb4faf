"""The end of a run: the judge's verdict on base and edit, and what to do next."""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path

from pytorch_lightning.loggers import Logger, WandbLogger
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from esd.emoji import protocol
from esd.metrics.counts import shown

PICTURES, KEPT = 24, 1  # the short form: pictures of the concept by name and as many in styles; of each other object


@functools.cache  # of the base model once a process: a sweep asks the same again
def _base(base_hash: str, concepts: tuple[str, ...]) -> dict:
    return {}


def verdict(model, student, base_hash: str, concepts: list[str], console: Console) -> dict:
    """The short form of the emoji protocol, on the base model and on the student, from the same noise."""
    rows = protocol.rows(concepts, max(3, PICTURES // len(concepts)), KEPT)
    started = time.perf_counter()
    base = _base(base_hash, tuple(concepts))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Judging", total=len(rows) * (1 if base else 2))

        def judge(denoiser) -> dict:
            return protocol.judged(rows, protocol.draw(model, denoiser, rows, lambda n: progress.advance(task, n)))

        if not base:
            base.update(judge(model.denoiser.to(student.device)))
        edit = judge(student)
    return {
        "protocol": f"{protocol.NAME}-short",
        "protocol_version": protocol.VERSION,
        "sampling": {"steps": protocol.STEPS, "guidance": protocol.GUIDANCE},
        "judging_seconds": round(time.perf_counter() - started, 2),
        "base": dict(base),
        "edit": edit,
    }


def objective(metrics: dict, wanted: str) -> float:
    """One number for a sweeper, larger is better; NaN where nothing was judged."""
    if "edit" not in metrics:
        return math.nan
    seen = [metrics["edit"][group] for group in ("erased", "erased_styled") if group in metrics["edit"]]
    erased = 1 - sum(count["hits"] for count in seen) / sum(count["of"] for count in seen)
    kept = metrics["edit"]["kept"]["rate"]
    return {"erased": erased, "kept": kept, "kept-erased": kept - (1 - erased)}[wanted]


def report(metrics: dict, folder: Path, console: Console) -> None:
    """The table, the pictures' path, and the next command to type."""
    if "edit" in metrics:
        table = Table("by the judge", "before", "after", box=None, header_style="dim")
        for group, label in protocol.GROUPS.items():
            if group in metrics["edit"]:
                table.add_row(label, shown(metrics["base"][group]), f"[bold]{shown(metrics['edit'][group])}[/]")
        console.print(table)
    console.print(f"Trained in {metrics['training_seconds']:.1f} s. Before and after: {folder / 'grid.png'}", soft_wrap=True)
    where = str(folder / "edit.safetensors")
    where = f'"{where}"' if " " in where else where
    console.print(f"Next: python -m esd.sample edit={where} prompt=\"a pizza\"", soft_wrap=True)


def log(metrics: dict, logger: Logger | bool, folder: Path) -> None:
    """The verdict as summary values, and the edit as an artifact."""
    if not logger:
        return
    values = {"train/seconds": metrics["training_seconds"]}
    for group, count in metrics.get("edit", {}).items():
        section = "erased" if group.startswith("erased") else "kept"
        name = {"erased": "seen", "erased_styled": "seen_styled", "kept": "objects", "kept_styles": "styles"}[group]
        values |= {f"{section}/{name}": count["rate"], f"{section}/{name}_base": metrics["base"][group]["rate"]}
    logger.log_metrics(values)
    if isinstance(logger, WandbLogger):
        import wandb

        artifact = wandb.Artifact(f"edit-{folder.name}", type="edit")
        artifact.add_file(str(folder / "edit.safetensors"))
        logger.experiment.log_artifact(artifact)
