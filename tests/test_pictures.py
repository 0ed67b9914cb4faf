"""Grids: rows and columns fit a screen, and captions are in the letters that people write."""

from __future__ import annotations

import pytest
import torch

from esd.sample import fonts
from esd.sample.fonts import SUBSTITUTE, drawable, has
from esd.sample.pictures import CAPTION, MARGIN, SCREEN, SIDE, grid, wrap_text


@pytest.mark.parametrize(("prompts", "count"), [(1, 1), (1, 8), (12, 1), (3, 8), (12, 4), (40, 1), (1, 24)])
def test_grids_fit_a_screen(prompts, count):
    columns = prompts * count
    page = grid([torch.rand(columns, 3, 64, 64)] * 2, ["base", "edit"], ["a cat"] * columns, together=count)
    wide, high = page.size
    assert wide <= SCREEN[0] and high <= SCREEN[1] * max(1, columns / 24)  # so many columns of two fill a screen
    assert wide / high < 9


def test_every_picture_is_where_its_caption_is():
    colours = torch.linspace(0.1, 0.9, 12).view(12, 1, 1, 1).expand(12, 3, 64, 64)
    page = grid([colours, 1 - colours], ["base", "edit"], [str(n) for n in range(12)])
    seen = {value for _, value in page.convert("L").getcolors(10**6)}
    for wanted in colours[:, 0, 0, 0].tolist():
        assert any(abs(value - 255 * wanted) <= 1 for value in seen)
    step, height = 112 + MARGIN, CAPTION + 2 * (112 + MARGIN)
    across = (page.width - SIDE - MARGIN) // step
    for n in range(12):
        at = SIDE + n % across * step + 56, n // across * height + CAPTION + 56
        assert abs(page.getpixel(at)[0] - 255 * float(colours[n, 0, 0, 0])) <= 1 and page.getpixel(at)[3] == 255
    assert page.getpixel((0, 0))[3] == 0  # the margins are the page's


@pytest.mark.parametrize("text", ["η = 1", "Ελληνικά", "Ван Гог", "crème brûlée", "a pizza, “hot”"])
def test_captions_are_written_in_greek_and_cyrillic(text, capsys):
    font, drawn = drawable(text, 10)
    assert drawn == text and all(has(font, letter) for letter in text)
    assert capsys.readouterr().err == ""


def test_chinese_is_written_where_a_font_has_it_and_else_said(monkeypatch, capsys):
    text = "披萨"
    if any(has(font, "披") for font in fonts.fonts(10)):  # the extra "cjk", or a font of the system
        assert drawable(text, 10)[1] == text
    latin = tuple(font for font in fonts.fonts(10) if not has(font, "披"))
    monkeypatch.setattr(fonts, "fonts", lambda size: latin)
    drawable.cache_clear()
    try:
        assert drawable(f"a {text}", 10)[1] == f"a {SUBSTITUTE * 2}"
        assert "warning: no font here has 披 萨" in capsys.readouterr().err
    finally:
        drawable.cache_clear()


def test_a_text_without_spaces_is_broken_too():
    font, text = drawable("披萨" * 30 if any(has(f, "披") for f in fonts.fonts(10)) else "w" * 60, 10)
    rows = wrap_text(text, font, 112, 2).splitlines()
    assert len(rows) == 2 and all(font.getlength(row) <= 112 for row in rows) and rows[-1].endswith("…")
    assert wrap_text("a pizza with cheese", font, 500, 2) == "a pizza with cheese"
