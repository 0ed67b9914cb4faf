"""Grids of pictures, captioned, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from esd.files import atomic_write

MARGIN, CAPTION, SIDE = 6, 34, 64  # pixels: between pictures, above a column, left of a row
BACK, INK, FAINT = "#ffffff", "#1a1a1a", "#666666"


def to_image(picture: Tensor, size: int | None = None) -> Image.Image:
    """(3, H, W) in [0, 1] → a PIL image, enlarged to `size` a side where given."""
    if size and size > picture.shape[-1]:
        picture = F.interpolate(picture[None], size=size, mode="bicubic", antialias=True)[0]
    return Image.fromarray(picture.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy())


def wrap_text(text: str, font: ImageFont.ImageFont, width: int, lines: int) -> str:
    """Text broken into at most so many lines of at most so many pixels; the rest becomes an ellipsis."""
    rows = [""]
    for word in text.split():
        joined = f"{rows[-1]} {word}".strip()
        if font.getlength(joined) <= width or not rows[-1]:
            rows[-1] = joined
        elif len(rows) == lines:
            rows[-1] += "…"
            break
        else:
            rows.append(word)
    return "\n".join(rows)


def grid(rows: Sequence[Tensor], labels: Sequence[str], captions: Sequence[str], size: int = 112) -> Image.Image:
    """Rows of pictures (each (n, 3, H, W)), a label to the left of each row and a caption above each of n columns."""
    width = max(size, rows[0].shape[-1]) if rows[0].shape[-1] <= size else size
    step = width + MARGIN
    page = Image.new("RGB", (SIDE + step * len(captions) + MARGIN, CAPTION + step * len(rows) + MARGIN), BACK)
    pen, small = ImageDraw.Draw(page), ImageFont.load_default(11)
    for j, caption in enumerate(captions):
        x = SIDE + j * step + width / 2
        pen.multiline_text((x, CAPTION - 4), wrap_text(caption, small, width, 2), INK, small, "md", align="center", spacing=2)
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = CAPTION + i * step
        pen.multiline_text((8, y + width / 2), wrap_text(label, small, SIDE - 12, 4), FAINT, small, "lm", spacing=2)
        for j, picture in enumerate(row):
            image = to_image(picture, width)
            page.paste(image if image.width == width else image.resize((width, width)), (SIDE + j * step, y))
    return page


def save_picture(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as temporary:
        image.save(temporary, "PNG", optimize=True)
