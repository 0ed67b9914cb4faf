"""One Lightning run of the embedded model's training: endless seeded batches, a checkpoint now and then, resumed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


def rank() -> int:
    """Which of the devices this process is."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def steps_from(start: int) -> Iterator[int]:
    """The steps whose batches this process draws: all of them, or as one of several loaders every so many-th."""
    worker = get_worker_info()
    return itertools.count(start + (worker.id if worker else 0), worker.num_workers if worker else 1)


class Pictures(IterableDataset):
    """Batches drawn from tensors of equal length, without end, each a pure function of (seed, step).

    shares: (length, share of a batch) of consecutive stretches; without it every row is as likely.
    """

    def __init__(self, *tensors: Tensor, batch: int, seed: int, shares: list[tuple[int, float]] | None = None):
        self.tensors, self.batch, self.seed, self.start = tensors, batch, seed, 0
        self.shares = shares or [(len(tensors[0]), 1.0)]

    def __iter__(self) -> Iterator[tuple[Tensor, ...] | Tensor]:
        for step in steps_from(self.start):
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) * 64 + rank())
            rows, first = [], 0
            for length, share in self.shares:
                count = max(1, round(share * self.batch))
                rows.append(first + torch.randint(length, (count,), generator=generator))
                first += length
            index = torch.cat(rows)
            picked = tuple(tensor[index] for tensor in self.tensors)
            yield picked if len(picked) > 1 else picked[0]


class Clock(pl.Callback):
    """The seconds of training, over all its parts: kept in the checkpoints."""

    def __init__(self):
        self.seconds, self.last = 0.0, None

    def on_train_batch_end(self, *_) -> None:
        now = time.perf_counter()
        self.seconds += now - (self.last or now)
        self.last = now

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds = state["seconds"]


def fit(module: pl.LightningModule, data, steps: int, cfg: DictConfig, folder: Path, ema: float | None = None) -> float:
    """Train for `steps` optimiser steps, going on from the newest checkpoint in `folder`. Returns the seconds it took."""
    checkpoint, clock = folder / "last.ckpt", Clock()
    if checkpoint.exists():
        data.start = torch.load(checkpoint, weights_only=True, map_location="cpu")["global_step"]
    trainer = pl.Trainer(
        max_steps=steps,
        limit_train_batches=steps,
        accelerator=cfg.accelerator,
        devices=cfg.devices,
        strategy="ddp_fork" if cfg.devices > 1 else "auto",  # each process its own part of a batch
        precision=cfg.precision,
        gradient_clip_val=1.0,
        callbacks=[
            ModelCheckpoint(
                folder, save_last=True, save_top_k=0, every_n_train_steps=cfg.pretrain.every, enable_version_counter=False
            ),
            RichProgressBar(refresh_rate=20),
            clock,
            *([WeightAveraging(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(ema))] if ema else []),
        ],
        logger=False,
        enable_model_summary=False,
    )
    loader = DataLoader(data, batch_size=None, num_workers=4 if trainer.strategy.root_device.type == "cuda" else 0)
    print(f"{type(module).__name__}: {steps} steps of {data.batch * cfg.devices}, checkpoints in {folder}")
    trainer.fit(module, loader, ckpt_path=checkpoint if checkpoint.exists() else None)
    return clock.seconds
