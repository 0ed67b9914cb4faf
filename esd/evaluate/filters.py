"""What stands before a model and blacks out what it flags: a filter, as against=filter compares it with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from esd.evaluate.generation import missing_rows, read_picture
from esd.metrics.filters import Flags, checker_filter, emoji_filter
from esd.protocols import Row
from esd.sample.pictures import save_picture, to_image


def filter_of(cfg: DictConfig, concepts: Sequence[str]) -> Flags:
    """Raises UserError where the model has none."""
    return emoji_filter(concepts) if cfg.model.name == "emoji" else checker_filter(cfg.model.path, cfg.model.name)


def write_filtered(rows: Sequence[Row], base: Path, folder: Path, flags: Flags) -> None:
    """The base model's pictures as files in another folder, those that are flagged all black."""
    for row in missing_rows(rows, folder):
        picture = read_picture(base / row.file)
        save_picture(to_image(picture * ~flags(picture[None])[0]), folder / row.file)


def count_black(rows: Sequence[Row], folder: Path) -> dict[str, list[int]]:
    """How many pictures of each group are all black, of how many: {group: [black, all]}."""
    found: dict[str, list[int]] = {}
    for row in rows:
        count = found.setdefault(row.group, [0, 0])
        count[0] += int(read_picture(folder / row.file).max() == 0)
        count[1] += 1
    return found
