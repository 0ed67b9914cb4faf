"""An attack in Weights & Biases: a run for each edit, with `attack/<name>/seen`, `…/never` and `…/excess` over the steps."""

from __future__ import annotations

import os
from pathlib import Path

import wandb
from omegaconf import DictConfig

from esd.attack.tables import by_edit
from esd.attack.tries import EDIT, NEVER
from esd.train.loggers import has_key


def log(cfg: DictConfig, metrics: dict, folder: Path) -> None:
    for name, lines in by_edit(metrics["figures"]).items():
        its = metrics["edits"][name]
        run = wandb.init(
            project=cfg.project, name=f"attack {name}", job_type="attack", dir=str(folder),
            mode=os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline"),
            tags=["attack", *(text[:60] for text in its["concept"])], reinit="finish_previous",
            config={key: metrics[key] for key in ("model", "model_hash", "budget", "seeds", "pictures", "control")}
            | {"concept": ", ".join(its["concept"])},
            settings=wandb.Settings(console="off", silent=True, init_timeout=60),
        )  # fmt: skip
        try:
            for line in sorted(lines, key=lambda line: line["steps"]):
                values = {
                    "seen": line.get(EDIT, {}).get("rate"), "never": line.get(NEVER, {}).get("rate"),
                    "excess": line.get("excess", {}).get("mean"),
                }  # fmt: skip
                found = {f"attack/{line['attack']}/{key}": value for key, value in values.items() if value is not None}
                run.log({**found, "attack/steps": line["steps"]})
                run.summary.update(found)
            for grid in sorted(folder.glob("grid-*.png")):
                run.log({f"attack/{grid.stem}": wandb.Image(str(grid))})
        finally:
            run.finish()
