"""The end of a run: the judge's verdict on base and edit, and what to do next."""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.loggers import Logger, WandbLogger
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from esd.command.words import command_line, text_option
from esd.metrics.counts import figure_value, format_figure
from esd.protocols import emoji

PICTURES, KEPT = 24, 1  # the short form: pictures of the concept by name and as many in styles; of each other object


@functools.cache  # of the base model once a process: a sweep asks the same again
def _base(base_hash: str, asked: tuple[str, ...]) -> list[Tensor]:
    return []


def verdict(model, student, base_hash: str, concepts: list[str], erase_from: list[str], console: Console) -> dict:
    """The short form of the emoji protocol, on the base model and on the student, from the same noise."""
    rows = emoji.rows(concepts, max(3, PICTURES // len(concepts)), KEPT, erase_from=erase_from)
    started = time.perf_counter()
    before = _base(base_hash, (*concepts, "", *erase_from))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Judging", total=len(rows) * (1 if before else 2))

        def drawn(denoiser) -> Tensor:
            return emoji.draw(model, denoiser, rows, lambda n: progress.advance(task, n))

        if not before:
            before.append(drawn(model.denoiser.to(student.device)))
        after = drawn(student)
    return {
        "protocol": f"{emoji.NAME}-short",
        "protocol_version": emoji.VERSION,
        "sampling": {"steps": emoji.STEPS, "guidance": emoji.GUIDANCE},
        "base": emoji.measure_pictures(rows, before[0]),
        "edit": emoji.measure_pictures(rows, after, before[0]),
        "judging_seconds": round(time.perf_counter() - started, 2),
    }


def objective(metrics: dict, wanted: str) -> float:
    """One number for a sweeper, larger is better; NaN where nothing was judged."""
    if "edit" not in metrics:
        return math.nan
    seen = [metrics["edit"][group] for group in ("erased", "erased_styled") if group in metrics["edit"]]
    erased = 1 - sum(count["hits"] for count in seen) / sum(count["of"] for count in seen)
    kept = metrics["edit"]["kept"]["rate"]
    return {"erased": erased, "kept": kept, "kept-erased": kept - (1 - erased)}[wanted]


def model_options() -> list[str]:
    """The options that name this run's model in the next command; none where it is the embedded one."""
    hydra = HydraConfig.get()
    named = [] if (chosen := hydra.runtime.choices["model"]) == "emoji" else [f"model={chosen}"]
    return named + [option for option in hydra.overrides.task if option.startswith("model.path=")]


def print_verdict(metrics: dict, folder: Path, concept: str, console: Console) -> None:
    """The table, the pictures' path, and the next command to type."""
    if "edit" in metrics:
        table = Table("by the judge", "before", "after", box=None, header_style="dim")
        for group, label in (emoji.GROUPS | emoji.DISTANCES).items():
            if group in metrics["edit"]:
                table.add_row(label, format_figure(metrics["base"][group]), f"[bold]{format_figure(metrics['edit'][group])}[/]")
        console.print(table)
    said = f"Trained in {metrics['training_seconds']:.1f} s. Before and after: {folder / 'grid.png'}"
    options = text_option("edit", folder / "edit.safetensors"), text_option("prompt", concept), *model_options()
    following = command_line("esd.sample", *options)
    console.print(f"{said}\nNext: {following}", soft_wrap=True, markup=False)


KEYS = {
    "erased": "erased/seen", "erased_styled": "erased/seen_styled", "kept_source": "kept/source",
    "kept": "kept/objects", "kept_styles": "kept/styles", "kept_distance": "kept/distance", "kept_pixels": "kept/pixels",
}  # fmt: skip


def wandb_keys(base: dict, edit: dict) -> dict[str, float]:
    """The figures as W&B's keys: `erased/…` and `kept/…`, the base model's rates beside them as `…_base`."""
    values = {KEYS.get(name, f"kept/{name}"): figure_value(figure) for name, figure in edit.items()}
    values |= {
        f"{KEYS.get(name, f'kept/{name}')}_base": figure_value(figure) for name, figure in base.items() if "rate" in figure
    }
    return {key: value for key, value in values.items() if value is not None}


def log_verdict(metrics: dict, loggers: list[Logger], folder: Path) -> None:
    """The verdict as summary values, and the edit as an artifact."""
    values = {"train/seconds": metrics["training_seconds"]}
    if "edit" in metrics:
        values |= wandb_keys(metrics["base"], metrics["edit"])
        values["score"] = objective(metrics, "kept-erased")
    for logger in loggers:
        logger.log_metrics(values, metrics["steps"])
        logger.save()
        if isinstance(logger, WandbLogger):
            import wandb

            artifact = wandb.Artifact(f"edit-{folder.name}", type="edit")
            artifact.add_file(str(folder / "edit.safetensors"))
            logger.experiment.log_artifact(artifact)
