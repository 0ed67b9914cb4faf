"""An evaluation in Weights & Biases: summary values and a table with the pictures."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import wandb
from omegaconf import DictConfig

from esd.metrics.counts import figure_value, format_figure, format_interval, format_lost
from esd.train.loggers import has_key, say_offline
from esd.train.verdict import wandb_keys


def log(cfg: DictConfig, metrics: dict, names: list[str], folder: Path) -> None:
    """One run for each variant of this evaluation: its figures as summary values, and them with its pictures as a table."""
    mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    if mode == "offline":
        say_offline("is offline", f"{shlex.quote(str(folder))}/wandb/offline-run-*", sys.stdout)
    for name in names:
        result = metrics["results"][name]
        run = wandb.init(
            project=cfg.project, name=f"{metrics['protocol']} {result['title']}", job_type="evaluate", dir=str(folder),
            mode=mode,
            tags=[metrics["protocol"], *(text[:60] for text in result["concept"])], reinit="finish_previous",
            config={key: metrics[key] for key in ("protocol", "protocol_version", "model", "model_hash", "sampling_steps")}
            | {"concept": ", ".join(result["concept"]), "kind": result["kind"]}
            | {key: result["record"][key] for key in ("eta", "layers", "lr", "steps") if key in result["record"]},
            settings=wandb.Settings(console="off", silent=True, init_timeout=60),
        )  # fmt: skip
        try:
            run.summary.update(wandb_keys(result["base"], result["edit"]))
            run.summary.update({"kept/lost": len(result["lost"]), "lost": format_lost(result["lost"])})
            table = wandb.Table(["figure", "base", "after", "after_value", "interval"])
            for figure, value in result["edit"].items():
                label = metrics["labels"].get(figure, figure)
                table.add_data(
                    label,
                    format_figure(result["base"][figure]),
                    format_figure(value),
                    figure_value(value),
                    format_interval(value),
                )
            pictures = wandb.Table(["picture", "base", "after"])
            for path in sorted((folder / name).glob("*.png"))[:48]:
                pictures.add_data(path.stem, wandb.Image(str(folder / "base" / path.name)), wandb.Image(str(path)))
            run.log({"evaluation/figures": table, "evaluation/pictures": pictures})
            run.log({"grid/before_after": wandb.Image(str(folder / result["grid"]))})
        finally:
            run.finish()
