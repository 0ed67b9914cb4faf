"""Pictures of many prompts, kept as files: over several devices, and going on where an interrupted run stopped."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn

from esd import UserError
from esd.command.progress import progress
from esd.models.family import Model
from esd.protocols import Row
from esd.sample.pictures import save_picture, to_image
from esd.sample.sampling import sample


class Bar(Callback):
    """Says whose pictures are being drawn, how many are, and the time left. total: of this device."""

    def __init__(self, console: Console):
        self.console, self.name, self.total = console, "", 0

    def on_predict_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.bar = progress(self.console, "pictures")
        task = self.bar.add_task(f"Drawing {escape(self.name)}", total=self.total)
        module.done = lambda n: self.bar.advance(task, n)
        self.bar.start()

    def on_predict_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()


def batch_key(row: Row) -> tuple:
    """What all pictures of one batch share."""
    return row.guidance, row.width or 0, row.height or 0


def missing_rows(rows: Sequence[Row], folder: Path) -> list[Row]:
    """The rows whose picture is not there yet, each once, those that can be drawn together side by side."""
    there = {path.name for path in folder.glob("*.png")}  # written whole or not at all: what is there is finished
    return sorted({row.file: row for row in rows if row.file not in there}.values(), key=batch_key)


def with_size(model: Model, width: int | None, height: int | None) -> Model:
    """The model, drawing pictures of this size. Raises UserError for a size that its latents can't have."""
    if not width and not height:
        return model
    factor = model.base.vae_scale_factor
    channels, high, wide = model.latent_shape
    wanted = (height or high * factor, width or wide * factor)
    if any(side % (8 * factor) for side in wanted):
        raise UserError(f"a picture of {wanted[1]}×{wanted[0]} can't be drawn: sides must be multiples of {8 * factor}")
    other = copy.copy(model)
    other.latent_shape = (channels, wanted[0] // factor, wanted[1] // factor)
    return other


class Painter(pl.LightningModule):
    """Draws batches of rows with one denoiser, each from the noise of its seed, and keeps each picture as a file."""

    def __init__(self, model: Model, denoiser: nn.Module, folder: Path, steps: int, sampler: str, **means: object):
        """sampler, means: the sampler and the negative prompt or the safe latent diffusion of sample()."""
        super().__init__()
        self.model, self.folder, self.look = model, folder, {"steps": steps, "sampler": sampler, **means}
        self.done: Callable[[float], None] = lambda n: None  # of pictures
        self.denoiser, self.vae = denoiser, model.base.vae  # registered: they move to the device

    def transfer_batch_to_device(self, batch: list[Row], device: torch.device, dataloader_idx: int) -> list[Row]:
        return batch  # words and numbers

    def predict_step(self, rows: list[Row], _: int) -> None:
        for (guidance, width, height), alike in itertools.groupby(rows, batch_key):
            alike = list(alike)
            drawn = sample(
                with_size(self.model, width, height), self.denoiser, [row.prompt for row in alike], [row.seed for row in alike],
                guidance=guidance, done=self.done, **self.look,
            )  # fmt: skip
            for row, picture in zip(alike, drawn, strict=True):
                save_picture(to_image(picture), self.folder / row.file)


def read_picture(path: Path) -> Tensor:
    """A picture (3, H, W) in [0, 1]. Raises UserError for one that is damaged."""
    try:
        return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) / 255
    except OSError as error:
        raise UserError(f"{path} is damaged or gone ({error}): remove it and start again, it is drawn anew") from error


def batches(
    rows: Sequence[Row], folder: Path, base: Path, device: torch.device, size: int = 64
) -> Iterator[tuple[list[Row], Tensor, Tensor]]:
    """(rows, their pictures, the base model's), so many at once and all of one size, in the rows' order."""
    for _, alike in itertools.groupby(rows, lambda row: (row.width, row.height)):
        alike = list(alike)
        for i in range(0, len(alike), size):
            part = alike[i : i + size]
            yield part, *(torch.stack([read_picture(where / row.file) for row in part]).to(device) for where in (folder, base))
