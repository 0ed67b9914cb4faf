"""Fonts for captions: of those at hand the one that has a text's letters. What none has is said, never drawn as a box."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageFont

# Latin, Greek and Cyrillic come with matplotlib; Chinese with the extra "cjk". Then whatever the system has under these names.
SHIPPED = {"matplotlib": "mpl-data/fonts/ttf/DejaVuSans.ttf", "pylopdf_fonts_zh_cn": "NotoSansSC-Regular.otf"}
SYSTEM = (
    "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf",
    "PingFang.ttc", "msyh.ttc", "Arial Unicode.ttf",
)  # fmt: skip
SUBSTITUTE = "?"


def font_files() -> Iterator[str]:
    for package, file in SHIPPED.items():
        if (found := importlib.util.find_spec(package)) and found.origin:
            yield str(Path(found.origin).parent / file)
    yield from SYSTEM


@functools.cache
def fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    """Those at hand, in this order; Pillow's own, which has Latin letters only, is the last."""
    found = []
    for file in font_files():
        try:
            found.append(ImageFont.truetype(file, size))
        except OSError:
            continue
    return (*found, ImageFont.load_default(size))


@functools.cache
def has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether it draws the letter, and not what it draws for a letter that there is not."""
    if letter.isspace():
        return True
    drawn, absent = (font.getmask(text) for text in (letter, "\uffff"))
    return (drawn.size, bytes(drawn)) != (absent.size, bytes(absent))


@functools.cache
def drawable(text: str, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """The font for a text, and the text as it is drawn: letters that no font has become a "?", and a line says so."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    font = max(fonts(size), key=lambda font: sum(has(font, letter) for letter in text))  # the first of equals
    absent = dict.fromkeys(letter for letter in text if not has(font, letter))
    if absent:
        print(
            f"warning: no font here has {' '.join(absent)}: a caption shows {SUBSTITUTE} instead. Chinese letters come with "
            "pip install 'erased-diffusion[cjk]'",
            file=sys.stderr,
        )
    return font, "".join(SUBSTITUTE if letter in absent else letter for letter in text)
