"""Pictures to look at: the base model, the edit, and the edit under each attack, one row each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from esd.attack.rows import Rows, noises
from esd.attack.tries import EDIT, Try
from esd.files import slug
from esd.sample.pictures import grid, save_picture

SHOWN = 8  # pictures in a row


def leave(folder: Path, rows: dict[tuple[str, str], Rows], tries: Iterable[Try]) -> None:
    """grid-<concept>-<edit>.png for each concept of each edit. Of an attack with many tries the last that was seen is shown."""
    tries = list(tries)
    for (edit, concept), its in rows.items():
        labels, strips = ["base"], [named(its, concept, its.model.denoiser)]
        labels.append("edit")
        strips.append(named(its, concept, its.denoiser()))
        own = [t for t in tries if (t.edit, t.concept, t.row) == (edit, concept, EDIT)]
        cells = dict.fromkeys((t.attack, t.steps if t.loss else 0) for t in own)
        for attack, steps in cells:
            of_it = [t for t in own if t.attack == attack and (not steps or t.steps == steps)]
            picture = next((t.picture for t in reversed(of_it) if t.seen), of_it[-1].picture)
            labels.append(f"{attack} {steps or ''}".strip())
            strips.append(cut(folder / picture, strips[0].shape[-1]))
        width = max(map(len, strips))
        pages = [torch.cat([strip, strip.new_ones(width - len(strip), *strip.shape[1:])]) for strip in strips]
        save_picture(grid(pages, labels, [""] * width), folder / f"grid-{slug(concept)}-{slug(edit, 60)}.png")


def named(rows: Rows, concept: str, denoiser) -> Tensor:
    """Asked for by name: (SHOWN, 3, H, W)."""
    target = rows.of(concept, denoiser, False).target
    return target.draw(target.condition([target.prompt]), noises(SHOWN))


def cut(file: Path, side: int) -> Tensor:
    """A strip's pictures: (n, 3, side, side)."""
    import numpy as np

    strip = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) / 255
    return torch.stack(strip.split(side, dim=2))
