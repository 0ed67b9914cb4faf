"""The progress bar of an erasure."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar


class ErasingBar(RichProgressBar):
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
