"""The emoji art as tensors: the sheets that ship, and their augmentation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from esd.emoji.words import NEVER_SHOWN, OBJECTS, STYLES, vocabulary

ART = Path(__file__).parent / "art"
COLUMNS = 16  # pictures in a row of a sheet
SIZE = 64  # the model's pictures, pixels a side


def _cut(sheet: str, size: int, count: int) -> Tensor:
    """The first `count` pictures of a sheet, premultiplied RGBA in [0, 1]: (count, 4, size, size)."""
    page = np.asarray(Image.open(ART / sheet).convert("RGBA").convert("RGBa"))
    tiles = torch.from_numpy(page.copy()).unfold(0, size, size).unfold(1, size, size)  # (rows, columns, 4, size, size)
    return tiles.flatten(0, 1)[:count].float() / 255


def objects() -> tuple[Tensor, Tensor, Tensor]:
    """Every object in every style: pictures (O·S, 4, 128, 128), object (O·S,) and style (O·S,) indices."""
    pictures = torch.cat([_cut(f"{style}.webp", 128, len(OBJECTS)) for style in STYLES])
    style, noun = torch.meshgrid(torch.arange(len(STYLES)), torch.arange(len(OBJECTS)), indexing="ij")
    return pictures, noun.flatten(), style.flatten()


def other_names() -> list[str]:
    """The names of the emoji that are none of the objects, as their art sets have them."""
    return json.loads((ART / "others.json").read_text())


def others() -> tuple[Tensor, Tensor, Tensor]:
    """Emoji that are none of the objects, in every style: pictures (N·S, 4, 64, 64), name (N·S,) and style indices."""
    names = other_names()
    pictures = torch.cat([_cut(f"{style}-others.webp", 64, len(names)) for style in STYLES])
    style, name = torch.meshgrid(torch.arange(len(STYLES)), torch.arange(len(names)), indexing="ij")
    return pictures, name.flatten(), style.flatten()


def captioned_others() -> dict[str, int]:
    """The other emoji that the U-Net is taught beside the objects, by name, so that it learns what a style is from more
    drawings than are judged: name → its index in `others()`. Those of one word, which is no word of the objects' phrases."""
    names = other_names()
    taken = {*vocabulary(), *NEVER_SHOWN}
    return {name: i for i, name in enumerate(names) if "-" not in name and name not in taken}


def augment(pictures: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Shifted, scaled, slightly turned, mirrored, on a light background: (B, 4, s, s) → (B, 3, 64, 64) in [0, 1]."""
    n = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator).to(pictures.device)

    angle, scale = uniform(-0.14, 0.14) * strength, 1 + uniform(-0.04, 0.22) * strength
    mirror = (uniform(0, 1) < 0.5).float() * -2 + 1
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shift_x, shift_y = uniform(-0.08, 0.08) * strength, uniform(-0.08, 0.08) * strength
    theta = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], dim=1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 4, 2 * SIZE, 2 * SIZE], align_corners=False)
    turned = F.grid_sample(pictures, grid, padding_mode="zeros", align_corners=False)  # (B, 4, 128, 128)
    turned = F.avg_pool2d(turned, 2)  # (B, 4, 64, 64)
    tint = 1 - 0.12 * torch.rand(n, 3, generator=generator).to(pictures.device) * (uniform(0, 1) < 0.5).float()[:, None]
    return turned[:, :3] + (1 - turned[:, 3:]) * tint[:, :, None, None]  # (B, 3, 64, 64)


def variants(
    pictures: Tensor, count: int, generator: torch.Generator, strength: float = 1.0, device: torch.device | str = "cpu"
) -> Tensor:
    """`count` augmentations of each picture as bytes, made on `device`: (N, 4, s, s) → (N, count, 3, 64, 64) uint8."""
    pictures = pictures.to(device)
    batches = [augment(pictures, generator, strength).mul(255).round().byte().cpu() for _ in range(count)]
    return torch.stack(batches, dim=1)
