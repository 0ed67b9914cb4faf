"""Grids of pictures, captioned, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from esd.files import atomic_write
from esd.sample.fonts import drawable

MARGIN, CAPTION, SIDE, TEXT = 6, 34, 64, 10  # pixels: between pictures, above a column, left of a row, of letters
SCREEN = (1280, 900)  # a small laptop's, in pixels: what a grid is to fit
BACK, INK = "#00000000", "#7a7a7a"  # of a page: it has none of its own, and letters that are read on white and on black


def to_image(picture: Tensor, size: int | None = None) -> Image.Image:
    """(3, H, W) in [0, 1] → a PIL image, enlarged to `size` a side where given."""
    if size and size > picture.shape[-1]:
        picture = F.interpolate(picture[None], size=size, mode="bicubic", antialias=True)[0]
    return Image.fromarray(picture.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy())


def wrap_text(text: str, font: ImageFont.ImageFont, width: int, lines: int) -> str:
    """Text broken into at most so many lines of at most so many pixels; the rest becomes an ellipsis."""
    rows, words = [""], text.split()
    while words:
        word = words.pop(0)
        joined = f"{rows[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            rows[-1] = joined
        elif not rows[-1]:  # longer than a line: Chinese has no spaces
            fits = max((n for n in range(1, len(word)) if font.getlength(word[:n]) <= width), default=1)
            rows[-1] = word[:fits]
            words[:0] = [word[fits:]] if word[fits:] else []
        elif len(rows) == lines:
            while rows[-1] and font.getlength(f"{rows[-1]}…") > width:
                rows[-1] = rows[-1][:-1]
            rows[-1] += "…"
            break
        else:
            rows.append("")
            words.insert(0, word)
    return "\n".join(rows)


def columns_that_fit(columns: int, height: int, step: int, together: int) -> int:
    """How many columns stand side by side before they go on below: all where a screen is wide enough, else as many as make
    the page fit it best, preferably whole groups of `together`. height: of one band; all in pixels."""
    if SIDE + columns * step + MARGIN <= SCREEN[0]:
        return columns

    def excess(across: int) -> float:
        return max((SIDE + across * step + MARGIN) / SCREEN[0], -(-columns // across) * height / SCREEN[1])

    most = max(1, (SCREEN[0] - SIDE - MARGIN) // step)
    whole = [across for across in range(1, most + 1) if across % together == 0]
    return min(whole or range(1, most + 1), key=excess)


def grid(
    rows: Sequence[Tensor], labels: Sequence[str], captions: Sequence[str], size: int = 112, together: int = 1
) -> Image.Image:
    """Rows of pictures (each (n, 3, H, W)), a label to the left of each row and a caption above each of n columns.

    Columns that a screen has no place for go on below. together: neighbouring columns that are better not parted.
    """
    width = max(size, rows[0].shape[-1]) if rows[0].shape[-1] <= size else size
    step, band = width + MARGIN, CAPTION + (width + MARGIN) * len(rows)
    across = columns_that_fit(len(captions), band, step, together)
    bands = -(-len(captions) // across)
    page = Image.new("RGBA", (SIDE + step * across + MARGIN, band * bands + MARGIN), BACK)
    pen = ImageDraw.Draw(page)

    def write(at: tuple[float, float], text: str, width: int, lines: int, anchor: str) -> None:
        font, text = drawable(text, TEXT)
        align = "center" if anchor == "md" else "left"
        pen.multiline_text(at, wrap_text(text, font, width, lines), INK, font, anchor, align=align, spacing=2)

    for j, caption in enumerate(captions):
        x, top = SIDE + j % across * step, j // across * band
        write((x + width / 2, top + CAPTION - 4), caption, width, 2, "md")
        for i, row in enumerate(rows):
            image = to_image(row[j], width)
            page.paste(image if image.width == width else image.resize((width, width)), (x, top + CAPTION + i * step))
    for n in range(bands):
        for i, label in enumerate(labels):
            write((8, n * band + CAPTION + i * step + width / 2), label, SIDE - 12, 5, "lm")
    return page


def save_picture(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as temporary:
        image.save(temporary, "PNG", optimize=True)
