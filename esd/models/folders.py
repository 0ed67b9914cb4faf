"""Pipelines in diffusers' folder layout: which family a folder holds, whether it is complete, and reading it."""

from __future__ import annotations

import re
from pathlib import Path

from esd import UserError
from esd.files import read_json

FAMILIES = {  # the pipeline's class → the file of this folder, and the class in it
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("sdxl", "StableDiffusionXL"),
    "StableDiffusion3Pipeline": ("sd3", "StableDiffusion3"),
    "FluxPipeline": ("flux", "Flux"),
}
SUPPORTED = "supported are Stable Diffusion 1, 2, XL and 3, and FLUX.1 (text to image)"
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")  # never loaded: nothing here looks at pictures
LIBRARIES = ("diffusers", "transformers")  # a part's class is of one of these: a folder never names other code to import
NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def pipeline_class(folder: Path) -> str:
    """The name of the pipeline's class. Raises UserError where there is none, or none that is supported."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder} is no diffusers pipeline: it has no model_index.json")
    kind = read_json(index).get("_class_name")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"{folder} holds a {kind}: {SUPPORTED}")
    return kind


def parts_of(folder: Path) -> dict[str, list]:
    """The parts that model_index.json names and that are loaded: name → [library, class], [None, None] where there is none.

    Raises UserError for a name that is no folder's own, and for a class of any other library. Parts that are never loaded may
    be of any: every Stable Diffusion 1 has its safety checker from the pipeline's own module, "stable_diffusion".
    """
    index = read_json(folder / "model_index.json")
    parts = {name: part for name, part in index.items() if isinstance(part, list) and name not in OPTIONAL}
    for name, part in parts.items():
        if not name.isidentifier() or len(part) != 2 or (part != [None, None] and part[0] not in LIBRARIES):
            raise UserError(
                f"{folder / 'model_index.json'} names {name}: {part}, which is no part of a model that is read here"
            )
    return parts


def missing_parts(folder: Path, weights: bool = True) -> list[str]:
    """Which parts that model_index.json names are not in the folder; a network's part needs a .safetensors file."""
    named = [name for name, part in parts_of(folder).items() if part[0]]
    absent = [name for name in named if not list((folder / name).glob("*"))]
    if weights:
        whole = [name for name in named if name in NETWORKS and name not in absent]
        absent += [f"{name}/*.safetensors" for name in whole if not list((folder / name).glob("*.safetensors"))]
    return absent


def pipeline(folder: Path, **given):
    """The folder as a diffusers pipeline, each part in the precision it has on disk, without a safety checker.

    given: parts that are there already, and are not read.
    """
    import diffusers

    from esd.models.precision import dtype_on_disk

    kind, index = pipeline_class(folder), read_json(folder / "model_index.json")
    for name in parts_of(folder):  # not of those that are never loaded
        for config in (folder / name).glob("*.json"):
            read_json(config)
    unused = {part: None for part in OPTIONAL if part in index}
    if "requires_safety_checker" in index:
        unused["requires_safety_checker"] = False
    weights = [file.name for part in ("unet", "transformer") for file in (folder / part).glob("*.safetensors")]
    variant = "fp16" if all(".fp16." in name for name in weights) else None  # the halved files, where there are no others
    dtypes = {name: dtype_on_disk(_weight_files(folder / name, variant)) for name in parts_of(folder) if name in NETWORKS}
    try:
        found = getattr(diffusers, kind).from_pretrained(
            folder, dtype=dtypes, variant=variant, use_safetensors=True, local_files_only=True, **unused, **given
        )
    except Exception as error:  # whatever these libraries raise of files that are not what they should be
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder} cannot be read ({said}): copy or download it again") from error
    for name, part in found.components.items():  # the libraries fill what a file lacks with noise, and only log it
        if name not in NETWORKS or part is None or name in given:
            continue
        held, wanted = _tensors_in(folder / name, variant), len(list(part.parameters()))
        if held < wanted:
            raise UserError(f"{folder / name} holds {held} of the {wanted} tensors that it should: copy or download it again")
    if empty := unfilled_tensor(found):
        raise UserError(f"{folder} lacks the tensor {empty}: copy or download it again")
    return found


def unfilled_tensor(pipeline) -> str | None:
    """A parameter that no file filled, if there is one, and of which part: the libraries leave it empty and say nothing."""
    import torch

    for name, part in pipeline.components.items():
        for tensor, value in part.named_parameters() if isinstance(part, torch.nn.Module) else ():
            if value.is_meta:
                return f"{tensor} of its {name}"
    return None


def _weight_files(part: Path, variant: str | None) -> list[Path]:
    """The part's files, those of the variant or those of none."""
    wanted = re.compile(r"(diffusion_pytorch_)?model" + (rf"\.{variant}" if variant else "") + r"(-\d+-of-\d+)?\.safetensors")
    return [path for path in part.glob("*.safetensors") if wanted.fullmatch(path.name)]


def _tensors_in(part: Path, variant: str | None) -> int:
    """How many tensors there are in the part's files."""
    from safetensors import safe_open

    count = 0
    for path in _weight_files(part, variant):
        with safe_open(path, "pt") as file:
            count += len(file.keys())
    return count
