"""Pipelines in diffusers' folder layout: which family a folder holds, whether it is complete, and reading it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from esd.command import Mistake

FAMILIES = {  # the pipeline's class → the file of this folder, and the class in it
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("sdxl", "StableDiffusionXL"),
    "StableDiffusion3Pipeline": ("sd3", "StableDiffusion3"),
    "FluxPipeline": ("flux", "Flux"),
}
SUPPORTED = "supported are Stable Diffusion 1, 2, XL and 3, and FLUX.1 (text to image)"
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")  # never loaded: nothing here looks at pictures
NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def pipeline_class(folder: Path) -> str:
    """The name of the pipeline's class. Raises Mistake where there is none, or none that is supported."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise Mistake(f"{folder} is no diffusers pipeline: it has no model_index.json")
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (json.JSONDecodeError, AttributeError) as error:
        raise Mistake(f"{index} is damaged: copy or download it again") from error
    if kind not in FAMILIES:
        raise Mistake(f"{folder} holds a {kind}: {SUPPORTED}")
    return kind


def missing(folder: Path, weights: bool = True) -> list[str]:
    """Which parts that model_index.json names are not in the folder; a network's part needs a .safetensors file."""
    parts = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    named = [name for name, part in parts.items() if isinstance(part, list) and part[0] and name not in OPTIONAL]
    absent = [name for name in named if not (folder / name).is_dir()]
    if weights:
        whole = [name for name in named if name in NETWORKS and name not in absent]
        absent += [f"{name}/*.safetensors" for name in whole if not list((folder / name).glob("*.safetensors"))]
    return absent


def pipeline(folder: Path):
    """The folder as a diffusers pipeline, float32, without a safety checker."""
    import diffusers
    import torch
    from safetensors import SafetensorError

    kind = pipeline_class(folder)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    unused = {part: None for part in OPTIONAL if part in index}
    if "requires_safety_checker" in index:
        unused["requires_safety_checker"] = False
    weights = [file.name for part in ("unet", "transformer") for file in (folder / part).glob("*.safetensors")]
    variant = "fp16" if all(".fp16." in name for name in weights) else None  # the halved files, where there are no others
    try:
        found = getattr(diffusers, kind).from_pretrained(
            folder, dtype=torch.float32, variant=variant, use_safetensors=True, local_files_only=True, **unused
        )
    except (OSError, SafetensorError) as error:
        raise Mistake(f"{folder} cannot be read ({str(error).splitlines()[0]}): copy or download it again") from error
    for name, part in found.components.items():  # the libraries fill what a file lacks with noise, and only log it
        held, wanted = _held(folder / name, variant), len(list(part.parameters())) if name in NETWORKS and part else 0
        if held < wanted:
            raise Mistake(f"{folder / name} holds {held} of the {wanted} tensors that it should: copy or download it again")
    return found


def _held(part: Path, variant: str | None) -> int:
    """How many tensors there are in the part's files, those of the variant or those of none."""
    from safetensors import safe_open

    wanted = re.compile(r"(diffusion_pytorch_)?model" + (rf"\.{variant}" if variant else "") + r"(-\d+-of-\d+)?\.safetensors")
    count = 0
    for path in part.glob("*.safetensors"):
        if wanted.fullmatch(path.name):
            with safe_open(path, "pt") as file:
                count += len(file.keys())
    return count
