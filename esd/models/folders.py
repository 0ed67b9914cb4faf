"""Pipelines in diffusers' folder layout: which family a folder holds, whether it is complete, and reading it."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from esd import UserError
from esd.files import read_json
from esd.models import prediction
from esd.models.settings import check_settings

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
WEIGHTS = re.compile(r"(\w+?)(?:\.(\w+))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors")  # name and variant
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def pipeline_class(folder: Path) -> str:
    """The name of the pipeline's class. Raises UserError where there is none, none that is supported, or a part's setting is
    not understood; of parts that are not there, nothing is said."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder} is no diffusers pipeline: it has no model_index.json")
    kind = read_json(index).get("_class_name")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"{folder} holds a {kind}: {SUPPORTED}")
    check_settings(folder, kind, read_json(index))
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
        absent += [f"{name}/{weights_name(name)}.safetensors" for name in whole if not variants_of(folder / name)]
    return absent


def weights_name(part: str) -> str:
    """What the files of a network are called: by transformers for text encoders, by diffusers for all others."""
    return "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"


def variants_of(part: Path) -> dict[str | None, list[Path]]:
    """The part's weight files by their variant: None for the plain ones, else fp16, non_ema, …"""
    found: dict[str | None, list[Path]] = {}
    for path in sorted(part.glob("*.safetensors")):
        if (name := WEIGHTS.fullmatch(path.name)) and name[1] == weights_name(part.name):
            found.setdefault(name[2] or name[3], []).append(path)
    return found


def _networks(folder: Path) -> dict[str, dict[str | None, list[Path]]]:
    """Every network that the folder is to have, and its weight files by variant."""
    return {name: variants_of(folder / name) for name, part in parts_of(folder).items() if name in NETWORKS and part[0]}


def variant_of(folder: Path) -> str | None:
    """The variant that is read: none where every network has plain files; else one that each network has or goes without, as
    diffusers reads it part by part. Raises UserError where the networks have none in common."""
    found = _networks(folder)
    lacking = [name for name, files in found.items() if None not in files]
    if not lacking:
        return None
    for variant in sorted({v for name in lacking for v in found[name]}, key=lambda v: (v != "fp16", v)):
        if all(variant in files or None in files for files in found.values()):
            return variant
    there = "; ".join(f"{name} as {' and '.join(found[name])}" for name in lacking)
    raise UserError(
        f"{folder} mixes variants that are not read together ({there}): give every part plain files, or one variant"
    )


def require_readable(folder: Path) -> None:
    """Raises UserError for a folder that can't be read as a whole, and says why: nothing but names and JSON is looked at."""
    require_no_pickles(folder)
    if absent := missing_parts(folder):
        raise UserError(f"{folder} is not complete, it has no {' and no '.join(absent)}: copy or download it again")
    variant_of(folder)
    for name in parts_of(folder):  # not of those that are never loaded
        for config in (folder / name).glob("*.json"):
            read_json(config)


def require_no_pickles(folder: Path) -> None:
    """Raises UserError where a network's only weights are pickles."""
    pickled = {
        name: [path.name for path in (folder / name).glob("*") if path.suffix in PICKLES]
        for name, files in _networks(folder).items() if not files
    }  # fmt: skip
    pickled = {name: files for name, files in pickled.items() if files}
    if pickled:
        example = f"{next(iter(pickled))}/{min(next(iter(pickled.values())), key=len)}"
        raise UserError(f"{folder} has its {' and '.join(pickled)} as pickles only ({example}): {how_to_convert(str(folder))}")


def how_to_convert(model: str) -> str:
    """What to type where a model's weights are pickles. model: a folder or a name on the hub."""
    target = Path(model).name + "-safetensors"
    code = f"P.from_pretrained({model!r}, safety_checker=None, use_safetensors=False).save_pretrained({target!r})"
    return (
        "a pickle can run code when it is read; if you trust where it is from, convert it with "
        f'`python -c "from diffusers import DiffusionPipeline as P; {code}"` and give model.path={target}'
    )


def pipeline(folder: Path, predicts: str = "auto", **given):
    """The folder as a diffusers pipeline, each part in the precision it has on disk, without a safety checker.

    predicts: epsilon or v, whatever its scheduler's configuration says; auto: as that says.
    given: parts that are there already, and are not read.
    """
    import diffusers

    from esd.models.precision import dtype_on_disk

    kind, index = pipeline_class(folder), read_json(folder / "model_index.json")
    require_readable(folder)
    unused = {part: None for part in OPTIONAL if part in index}
    if "requires_safety_checker" in index:
        unused["requires_safety_checker"] = False
    variant, networks = variant_of(folder), {}
    files = {name: found.get(variant) or found.get(None, []) for name, found in _networks(folder).items()}
    with reading(folder):
        for name, (library, part) in parts_of(folder).items():
            if name in files and name not in given:
                networks[name] = getattr(importlib.import_module(library), part).from_pretrained(
                    folder / name, dtype=dtype_on_disk(files[name]), use_safetensors=True, local_files_only=True,
                    variant=variant if variant in variants_of(folder / name) else None,
                )  # fmt: skip
        found = getattr(diffusers, kind).from_pretrained(folder, local_files_only=True, **networks, **given, **unused)
    for name, part in networks.items():  # the libraries fill what a file lacks with noise, and only log it
        held, wanted = _tensors_in(files[name]), len(list(part.parameters()))
        if held < wanted:
            raise UserError(f"{folder / name} holds {held} of the {wanted} tensors that it should: copy or download it again")
    if empty := unfilled_tensor(found):
        raise UserError(f"{folder} lacks the tensor {empty}: copy or download it again")
    prediction.settle(found, prediction.Prediction(prediction.TYPES.get(predicts)))
    return found


def denoiser_without_weights(folder: Path):
    """The denoiser as its configuration says, on the meta device: every name and shape, and nothing in memory."""
    import diffusers
    import torch

    part = next(name for name in ("unet", "transformer") if name in parts_of(folder))
    with reading(folder), torch.device("meta"):
        return getattr(diffusers, parts_of(folder)[part][1]).from_config(read_json(folder / part / "config.json"))


def source(folder: Path) -> str:
    """Which files the denoiser was read from, and whether they hold its EMA weights, where their names tell."""
    part = next(name for name in ("unet", "transformer") if (folder / name).is_dir())
    variant, found = variant_of(folder), variants_of(folder / part)
    files = found.get(variant) or found[None]
    name = f"{part}/{files[0].name}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    ema = {"non_ema": "not EMA weights", "ema": "EMA weights"}.get(variant if variant in found else None)
    return f"{name}, {ema or ('EMA weights' if 'non_ema' in found else 'EMA or not is not said')}"


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Whatever the libraries raise of files that are not what they should be becomes a UserError."""
    try:
        yield
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder} cannot be read ({said}): copy or download it again") from error


def unfilled_tensor(pipeline) -> str | None:
    """A parameter that no file filled, if there is one, and of which part: the libraries leave it empty and say nothing."""
    import torch

    for name, part in pipeline.components.items():
        for tensor, value in part.named_parameters() if isinstance(part, torch.nn.Module) else ():
            if value.is_meta:
                return f"{tensor} of its {name}"
    return None


def _tensors_in(files: list[Path]) -> int:
    """How many weights there are in the files: old ones of a text encoder have its positions' whole numbers beside them."""
    from safetensors import safe_open

    count = 0
    for path in files:
        with safe_open(path, "pt") as file:
            count += sum(not name.endswith(".position_ids") for name in file.keys())  # noqa: SIM118
    return count
