"""What a run shows and keeps while it trains: the bar, the before/after grids, the checkpoints."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from esd.command.signals import Signals
from esd.erasing.erasure import Erasure
from esd.files import atomic_write
from esd.sample.pictures import grid, save_picture
from esd.sample.sampling import sample


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


class BeforeAfterGrids(Callback):
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
        save_picture(page, self.folder / "grid.png")
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


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all. (Lightning's own are moved into place, unsynced, from the system's
    temporary folder, which may be another disk.)"""

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)


class Checkpoints(Callback):
    """What a run goes on from: written every so many steps, every so many minutes, after the last step and when a signal
    comes; the last two are kept. Each holds what moves and nothing frozen.

    minutes: 0 for none by the clock. Raises FloatingPointError rather than keep weights that are not finite, and
    Interrupted once the checkpoint that a signal asked for is there.
    """

    def __init__(self, folder: Path, every: int, minutes: float, signals: Signals):
        self.folder, self.every, self.minutes, self.signals = folder / "checkpoints", every, minutes, signals
        self.before = 0.0  # seconds of training in the processes before this one
        self.started = self.last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training, over all the processes a run took."""
        return self.before + time.monotonic() - self.started

    def state_dict(self) -> dict:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.before = state["seconds"]

    def setup(self, trainer: pl.Trainer, module: Erasure, stage: str) -> None:
        self.started = time.monotonic()
        self.prune(trainer)  # here too: after a kill between the last step's checkpoint and this, there is no step to come

    def on_train_start(self, trainer: pl.Trainer, module: Erasure) -> None:
        self.last = time.monotonic()
        if trainer.is_global_zero:  # they could not be read
            for path in [path for path in checkpoints_in(self.folder) if step_of(path) > trainer.global_step]:
                path.unlink()
        self.signals.patient = True
        self.signals.listen()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Erasure, outputs, batch, batch_idx: int) -> None:
        step = trainer.global_step
        late = bool(self.minutes) and time.monotonic() - self.last >= 60 * self.minutes
        signum, late = self.agreed(module, self.signals.received, late)
        if signum or late or step % self.every == 0 or step == trainer.max_steps:
            self.write(trainer, module)
        if signum:
            self.signals.stop(signum)

    def agreed(self, module: Erasure, signum: int, late: bool) -> tuple[int, bool]:
        """The same on all ranks: a checkpoint is written by all together."""
        if module.trainer.world_size == 1:
            return signum, late
        votes = torch.tensor([signum, late], device=module.device)
        torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
        signum, late = votes.tolist()
        return signum, bool(late)

    def write(self, trainer: pl.Trainer, module: Erasure) -> None:
        if not all(tensor.isfinite().all() for tensor in module.trained_tensors().values()):
            raise FloatingPointError(f"the weights are not finite after step {trainer.global_step}: lower lr or eta")
        trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")
        self.last = time.monotonic()
        self.prune(trainer)

    def prune(self, trainer: pl.Trainer) -> None:
        """Only the last two stay."""
        for path in checkpoints_in(self.folder)[2:] if trainer.is_global_zero else ():
            path.unlink()

    def on_train_end(self, trainer: pl.Trainer, module: Erasure) -> None:
        self.signals.patient = False
        if self.signals.received:  # it came after the last step's checkpoint
            self.signals.stop(self.signals.received)


def step_of(path: Path) -> int:
    return int(path.stem.partition("=")[2])


def checkpoints_in(folder: Path) -> list[Path]:
    """A run's checkpoints, the newest first."""
    return sorted(folder.glob("step=*.ckpt"), key=step_of, reverse=True)


def newest_checkpoint(folder: Path) -> tuple[Path | None, dict | None]:
    """The newest checkpoint of a run that can be read, and its content; (None, None) where there is none."""
    for path in checkpoints_in(folder / "checkpoints"):
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is None:  # torch itself reads flipped bits without a word
                    return path, torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # noqa: BLE001, S112  (damaged: the one before it is whole)
            continue
    return None, None
