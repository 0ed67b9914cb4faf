"""Models, a file for each family. `load` is the way in from a path, `from_pipeline` from a pipeline that is loaded.

`model.path` is a diffusers pipeline folder, a single-file checkpoint (.safetensors), or the name of a model on the Hugging
Face hub; nothing is the embedded model. The family is read from what is found there.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from esd import UserError
from esd.models import folders, hub, prediction, settings, single_file

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

    from esd.models.family import Model

DTYPES = ("auto", "bf16", "fp16", "fp32")  # model.dtype
SAMPLERS = ("own", "dpm")  # of pictures: the family's, or one of second order (esd/sample/sampling.py)
EMOJI = Path(__file__).parent.parent / "emoji" / "model"
EMOJI_TWIN = EMOJI.with_name("twin")  # the same, never taught what is studied (esd/emoji/words.py)


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
        folders.require_readable(place)
        return place
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(path)):
        place = hub.folder(path)
        folders.pipeline_class(place)
        return place  # its weights may be still to download
    raise UserError(
        f"model.path={place} does not exist: give a diffusers pipeline folder, a .safetensors checkpoint, "
        "or the name of a model on the hub"
    )


def denoiser_without_weights(path: str | None) -> nn.Module | None:
    """The denoiser behind `model.path` on the meta device, before anything is loaded; None for a single file, which tells
    shapes only with its weights."""
    from esd.models.quiet import silence_libraries

    silence_libraries()
    place = folder_of(path)
    return folders.denoiser_without_weights(place) if place.is_dir() else None


def load(path: str | None, name: str, dtype: str = "fp32", predicts: str = "auto") -> Model:
    """The model behind `model.path`, frozen, on the CPU.

    dtype:    what its weights are stored in: "fp32"; "auto", as they are on disk; "bf16" or "fp16", the denoiser's.
    predicts: "epsilon" or "v", whatever its files say; "auto": as they say, and where they do not, a UserError that asks.
    """
    prediction.require_known(predicts)
    if dtype not in DTYPES:
        raise UserError(f"model.dtype={dtype} is unknown: {', '.join(DTYPES)}")
    place = folder_of(path)
    from esd.models.quiet import silence_libraries

    silence_libraries()
    if place.is_dir() and folders.missing_parts(place):
        place = hub.download(path, place)
    from esd.models import encoders, precision

    read = single_file.pipeline if place.is_file() else folders.pipeline
    pipeline = read(place, predicts)
    model = from_pipeline(pipeline, name)
    model.source = "the package" if path is None else (single_file if place.is_file() else folders).source(place)
    precision.store(pipeline, model.denoiser, dtype)
    if place in (EMOJI, EMOJI_TWIN):
        attend_plainly(model.denoiser)

    def encoders_again() -> dict:
        there = {part: value for part, value in pipeline.components.items() if value is not None}
        fresh = encoders.text_encoders(read(place, predicts, **there))
        return {part: encoder.float() if dtype == "fp32" else encoder for part, encoder in fresh.items()}

    model.encoders_again = encoders_again
    return model


def attend_plainly(denoiser) -> None:
    """On a processor: the embedded U-Net's attention as two matrix products. torch's fused kernel is made for long sequences;
    with 64 positions in heads of 32 its backward pass takes a quarter of a training step in bf16."""
    import torch
    from diffusers.models.attention_processor import AttnProcessor

    if not torch.cuda.is_available():
        denoiser.set_attn_processor(AttnProcessor())


def from_pipeline(pipeline: DiffusionPipeline, name: str) -> Model:
    """The model in a diffusers pipeline, frozen, its parts shared. Raises UserError for a pipeline of no supported family, and
    for one with a setting that is not understood."""
    known = next((kind.__name__ for kind in type(pipeline).__mro__ if kind.__name__ in folders.FAMILIES), None)
    if known is None:
        raise UserError(f"{type(pipeline).__name__}: {folders.SUPPORTED}, as {', '.join(folders.FAMILIES)}")
    settings.check_loaded(pipeline, known)
    module, family = folders.FAMILIES[known]
    model = getattr(importlib.import_module(f"esd.models.{module}"), family)(pipeline, name)
    model.on_disk = next(p.dtype for p in model.denoiser.parameters() if p.dim() > 1)
    model.source = "a loaded pipeline"
    return model
