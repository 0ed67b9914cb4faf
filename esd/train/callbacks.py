"""What a run shows and keeps while it trains: the before/after grids, the checkpoints."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger
from rich.console import Console
from torch import Tensor, nn

from esd.command.progress import progress
from esd.command.signals import Signals
from esd.erasing.erasure import Erasure
from esd.files import atomic_write
from esd.models.family import Model
from esd.sample.pictures import grid, save_picture
from esd.sample.sampling import sample


class BeforeAfterGrids(Callback):
    """Before over after, the same prompts and the same noise: at the start, every `every` steps, and, by draw(), at the end.

    The student's pictures at the start are the base model's: they are drawn once. In the run's folder grid.png is always
    the newest. No prompts: no grids.
    """

    def __init__(
        self, folder: Path, prompts: Sequence[str], every: int, sampling: dict, console: Console, given: Tensor | None = None
    ):  # fmt: skip
        """sampling: steps, sampler and guidance of sample(). given: pictures (n, 3, H, W) of what is erased, to stand above."""
        self.folder, self.prompts, self.every, self.console = folder, list(prompts), every, console
        self.sampling, self.given = sampling, given
        self.before: Tensor | None = None  # (n, 3, H, W)

    def pictures(self, trainer: pl.Trainer, model: Model, student: nn.Module) -> Tensor:
        """The student's, with a bar unless Lightning's is there."""
        seeds = range(len(self.prompts))
        with progress(self.console, "pictures", trainer.training) as bar, trainer.precision_plugin.forward_context():
            task = bar.add_task("Drawing", total=len(self.prompts))
            return sample(model, student, self.prompts, seeds, done=lambda n: bar.advance(task, n), **self.sampling)

    def begin(self, trainer: pl.Trainer, model: Model, student: nn.Module) -> None:
        """Draw the base model's pictures, while the student still is the base model."""
        if self.prompts and trainer.is_global_zero:
            self.before = self.pictures(trainer, model, student)

    def draw(self, trainer: pl.Trainer, module: Erasure) -> None:
        """Draw the student's as it is now, and show both."""
        if self.before is not None:
            self.show(trainer, self.pictures(trainer, module.model, module.student))

    def show(self, trainer: pl.Trainer, after: Tensor) -> None:
        rows, labels = [self.before, after], ["before", f"after {trainer.global_step} steps"]
        if self.given is not None:
            shown = self.given[: len(self.prompts)]
            blank = torch.ones(len(self.prompts) - len(shown), *shown.shape[1:])
            rows, labels = [torch.cat([shown, blank]), *rows], ["given", *labels]
        page = grid(rows, labels, self.prompts)
        save_picture(page, self.folder / "grid.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("grid/before_after", [page], step=trainer.global_step)

    def on_train_start(self, trainer: pl.Trainer, module: Erasure) -> None:
        if trainer.global_step == 0 and self.before is not None:
            self.show(trainer, self.before)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Erasure, outputs, batch, batch_idx: int) -> None:
        if self.every and trainer.global_step % self.every == 0 and trainer.global_step < trainer.max_steps:
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

    minutes: 0 for none by the clock. record: what the run's edit depends on, by which the next process knows the run.
    Raises FloatingPointError rather than keep weights that are not finite, and Interrupted once the checkpoint that a signal
    asked for is there.
    """

    def __init__(self, folder: Path, every: int, minutes: float, signals: Signals, record: dict):
        self.folder, self.every, self.minutes, self.signals = folder / "checkpoints", every, minutes, signals
        self.record = json.loads(json.dumps(record, default=str))  # plain values, all that a checkpoint may hold
        self.before = 0.0  # seconds of training in the processes before this one
        self.started = self.last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training, over all the processes a run took."""
        return self.before + time.monotonic() - self.started

    def state_dict(self) -> dict:
        return {"seconds": self.seconds, "record": self.record}

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
        if signum or late or step % self.every == 0 or step == trainer.max_steps or trainer.should_stop:
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
        module.require_finite()
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


def checkpoint_record(checkpoint: dict) -> dict:
    """The record of the run that a checkpoint is of; of earlier versions' nothing."""
    return checkpoint["callbacks"][Checkpoints.__qualname__].get("record", {})


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
