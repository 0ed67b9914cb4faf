"""Models, a file for each family. `load` is the only way in.

`model.path` is a diffusers pipeline folder, a single-file checkpoint (.safetensors), or the name of a model on the Hugging
Face hub; nothing is the embedded model. The family is read from what is found there.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from esd import UserError
from esd.models import folders, hub, single_file

if TYPE_CHECKING:
    from esd.models.family import Model

EMOJI = Path(__file__).parent.parent / "emoji" / "model"


def folder_of(path: str | None) -> Path:
    """The pipeline folder or the single file behind `model.path`; None is the embedded model. Imports nothing heavy.

    Raises UserError if it is none, is of no supported family, lacks a part, or is neither here nor to be reached.
    """
    place = EMOJI if path is None else Path(path).expanduser()
    if place.is_file():
        single_file.keys(place)
        return place
    if place.is_dir():
        folders.pipeline_class(place)
        if absent := folders.missing_parts(place):
            raise UserError(f"{place} is not complete, it has no {' and no '.join(absent)}: copy or download it again")
        return place
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)):
        place = hub.folder(path)
        folders.pipeline_class(place)
        return place  # its weights may be still to download
    raise UserError(
        f"model.path={place} does not exist: give a diffusers pipeline folder, a .safetensors checkpoint, "
        "or the name of a model on the hub"
    )


def load(path: str | None, name: str) -> Model:
    """The model behind `model.path`, float32, frozen, on the CPU."""
    place = folder_of(path)
    from esd.models.quiet import silence_libraries

    silence_libraries()
    if place.is_dir() and folders.missing_parts(place):
        place = hub.download(path)
    pipeline = single_file.pipeline(place) if place.is_file() else folders.pipeline(place)
    module, family = folders.FAMILIES[type(pipeline).__name__]
    return getattr(importlib.import_module(f"esd.models.{module}"), family)(pipeline, name)
