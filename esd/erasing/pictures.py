"""A concept that is given as pictures, where no words show it: x_t is one of them, noised to t (ESD, section 5.4).

No walk is needed: three forwards an example, the teacher's two and the student's. The short text that goes with the pictures is
what the student is taught to answer with their absence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from esd import UserError
from esd.erasing.concepts import Draw
from esd.erasing.trajectories import Denoisers, Examples, Pool
from esd.models.family import Model
from esd.models.settings import sides

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def picture_files(folder: str | Path) -> list[Path]:
    """The pictures in a folder, by name. Raises UserError where there are none."""
    place = Path(folder).expanduser()
    if not str(folder) or not place.is_dir():
        raise UserError(f"images={folder} is no folder: give a folder with pictures of the concept")
    files = sorted(path for path in place.glob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"images={folder} holds no .png, .jpg or .webp pictures of the concept")
    return files


def read_pictures(files: Sequence[Path], size: int | tuple[int, int]) -> Tensor:
    """As a viewer shows them, cut from the middle, what is transparent white: (n, 3, height, width) in [0, 1].

    size: (height, width), or the side of a square. Raises UserError for one that cannot be read, or has more than 8 bits of
    grey, of which a file does not say what is white.
    """
    high, wide = sides(size)
    made = []
    for file in files:
        try:
            picture = ImageOps.exif_transpose(Image.open(file))
            deep = picture.mode.startswith(("I", "F"))
            picture = picture.convert("RGBA")
        except OSError as error:
            raise UserError(f"{file} is no picture that can be read: take it out of images={file.parent}") from error
        if deep:
            raise UserError(f"{file} has more than 8 bits of grey: save it with 8, or take it out of images={file.parent}")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        picture = ImageOps.fit(picture, (wide, high), Image.Resampling.LANCZOS)
        made.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255)
    return torch.stack(made)


@dataclass(eq=False)
class Pictures(Pool):
    """Noised pictures of the concept. Prompts that are preserved have no pictures: they walk in a pool beside them.

    images: a folder of pictures.
    """

    name: ClassVar[str] = "pictures"

    images: str = ""

    def __post_init__(self):
        super().__post_init__()
        self.files = picture_files(self.images)

    def begin(self, denoisers: Denoisers, advance: Callable[[int, int], None] = lambda n, total: None) -> Self:
        with torch.autocast(denoisers.prompts.c.device.type, enabled=False):  # a VAE computes in what it is stored in
            self.given, self.x_0 = self.read(denoisers.model)
        return super().begin(denoisers, advance)

    def read(self, model: Model) -> tuple[Tensor, Tensor]:
        """The pictures (n, 3, H, W) and their latents (n, C, h, w)."""
        high, wide = (side * model.base.vae_scale_factor for side in model.latent_shape[-2:])
        given = read_pictures(self.files, (high, wide))
        device = next(model.denoiser.parameters()).device
        return given, torch.cat([model.latents(part.to(device)).cpu() for part in given.split(4)])

    def examples(self, draw: Draw) -> Examples:
        erases = int((~self.denoisers.prompts.preserves[draw.concept]).sum())  # they stand before those that preserve
        erasing, preserving = Draw(*(part[:erases] for part in draw)), Draw(*(part[erases:] for part in draw))
        x_t = self.noised(erasing).to(draw.position.device)
        pictured = self.denoisers.teacher_predictions(x_t, erasing)
        if erases == len(draw.position):
            return pictured
        return Examples(*map(torch.cat, zip(pictured, super().examples(preserving), strict=True)))

    def answered(self, draw: Draw, eps: Tensor) -> None:
        if self.waiting is not None:
            first = len(draw.position) - len(self.waiting.position)
            super().answered(Draw(*(part[first:] for part in draw)), eps[first:])

    def noised(self, draw: Draw) -> Tensor:
        """A picture and a noise of each example's own. In the draws a walk keeps its noise over all of the schedule, so the
        position has a part in it."""
        position, noise = draw.position.cpu(), draw.noise.cpu()
        seeds = (noise + position * 0x9E3779B97F4A7C1) % 2**62
        sampler = self.denoisers.sampler
        x_0, noise = self.x_0[seeds % len(self.x_0)], self.denoisers.model.noise(seeds)
        device = sampler.timesteps.device
        return sampler.noised(x_0.to(device), noise.to(device), draw.position)

    def forwards(self, positions: int) -> float:
        return 2

    def forwards_to_start(self, positions: int) -> float:
        return 0

    def record(self) -> dict:
        content = hashlib.sha256(b"".join(file.read_bytes() for file in self.files)).hexdigest()[:16]
        return {**super().record(), "images": str(self.images), "images_sha256": content, "pictures": len(self.files)}
