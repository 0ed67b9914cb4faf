"""Models, a file for each family. `load` is the only way in."""

from __future__ import annotations

import json
from pathlib import Path

from esd.command import Mistake

EMOJI = Path(__file__).parent.parent / "emoji" / "model"


def folder_of(path: str | None) -> Path:
    """The pipeline folder behind `model.path`; None is the embedded model. Raises Mistake if it is none."""
    folder = EMOJI if path is None else Path(path).expanduser()
    if not folder.is_dir():
        raise Mistake(f"model.path={folder} is no folder: give a diffusers pipeline folder (one with model_index.json)")
    if not (folder / "model_index.json").is_file():
        raise Mistake(f"{folder} is no diffusers pipeline: it has no model_index.json")
    kind = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise Mistake(f"{folder} holds a {kind}: supported is StableDiffusionPipeline (Stable Diffusion 1 and 2)")
    return folder


def load(path: str | None, name: str):
    """The model in a pipeline folder, float32, frozen, on the CPU."""
    folder = folder_of(path)
    from esd.quiet import quiet

    quiet()
    import torch
    from diffusers import StableDiffusionPipeline

    from esd.models.stable_diffusion import StableDiffusion

    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, safety_checker=None, requires_safety_checker=False, local_files_only=True
    )
    return StableDiffusion(pipeline, name)
