"""What a run shows and keeps while it trains: the bar, the before/after grids, the checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from esd.erasure import Erasure
from esd.pictures import grid, save
from esd.sampling import sample


class Bar(RichProgressBar):
    """A run is one long epoch: the bar counts its steps."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps  # also after a resume

    def _get_train_description(self, current_epoch: int) -> str:
        return "Erasing"

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict:
        return {
            name.removeprefix("train/"): value
            for name, value in super().get_metrics(trainer, module).items()
            if name == "train/loss"
        }


class Grids(Callback):
    """Before over after, the same prompts and the same noise: at the start, every `every` steps, and at the end.

    before: the base model's pictures (n, 3, H, W) of these prompts. In the run's folder grid.png is always the newest.
    """

    def __init__(self, folder: Path, prompts: Sequence[str], before: Tensor, every: int, steps: int, guidance: float):
        self.folder, self.prompts, self.before, self.every = folder, list(prompts), before, every
        self.sampling = {"steps": steps, "guidance": guidance}

    def draw(self, trainer: pl.Trainer, module: Erasure) -> None:
        if not trainer.is_global_zero:
            return
        with trainer.precision_plugin.forward_context():
            after = sample(module.model, module.student, self.prompts, range(len(self.prompts)), **self.sampling)
        page = grid([self.before, after], ["before", f"after {trainer.global_step} steps"], self.prompts)
        save(page, self.folder / "grid.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("grid/before_after", [page], step=trainer.global_step)

    def on_train_start(self, trainer: pl.Trainer, module: Erasure) -> None:
        if trainer.global_step == 0:
            self.draw(trainer, module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Erasure, outputs, batch, batch_idx: int) -> None:
        if self.every and trainer.global_step % self.every == 0 and trainer.global_step < trainer.max_steps:
            self.draw(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: Erasure) -> None:
        self.draw(trainer, module)


def checkpoints(folder: Path, every: int) -> ModelCheckpoint:
    """The last two checkpoints, one every so many steps; each holds what moves and nothing frozen."""
    return ModelCheckpoint(
        folder / "checkpoints", "{step}", monitor="step", mode="max", save_top_k=2, every_n_train_steps=every
    )


def newest(folder: Path) -> tuple[Path | None, dict | None]:
    """The newest checkpoint of a run that can be read, and its content; (None, None) where there is none."""
    found = (folder / "checkpoints").glob("step=*.ckpt")
    for path in sorted(found, key=lambda path: int(path.stem.partition("=")[2]), reverse=True):
        try:
            return path, torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # noqa: BLE001  (cut short while it was written: the one before it is whole)
            continue
    return None, None
