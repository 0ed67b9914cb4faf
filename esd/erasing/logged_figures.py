"""How a step's figures reach Lightning's loggers."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from esd.erasing.erasure import Erasure


class LoggedFigures(Callback):
    """Sends what a step measured to the loggers within the step, so that it lies on the disk before the step's checkpoint:
    a run that goes on from there does not take the step again. (Lightning's own comes after all callbacks.)"""

    def on_train_batch_end(self, trainer: pl.Trainer, module: Erasure, outputs, batch, batch_idx: int) -> None:
        figures = {name: float(value) for name, value in module.figures.items()} if trainer.loggers else {}
        for logger in trainer.loggers if figures else ():
            logger.log_metrics(figures, trainer.global_step - 1)
            logger.save()
