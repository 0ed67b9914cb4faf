"""Checkpoints in one file, as A1111 and ComfyUI keep them: read by diffusers' own loader.

They hold weights only. Configurations and tokenizers come from a folder beside the file, of its name without .safetensors
(the export writes one), or from the hub's model that the keys point to.
"""

from __future__ import annotations

from pathlib import Path

from esd import UserError
from esd.files import read_json
from esd.models import folders, hub, prediction
from esd.models.settings import OTHER_INPUTS

KINDS = {  # diffusers' names of what the keys look like → the pipeline's class
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35_medium": "StableDiffusion3Pipeline",
    "sd35_large": "StableDiffusion3Pipeline",
    "flux-dev": "FluxPipeline",
    "flux-schnell": "FluxPipeline",
}
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"


def keys(path: Path) -> list[str]:
    """The names of the checkpoint's tensors. Raises UserError for a pickle, and for a file that is damaged or no model."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise UserError(f"model.path={path} is no .safetensors file; a pickle (.ckpt, .pt) can run code when read: convert it")
    try:
        with safe_open(path, "np") as file:
            names = list(file.keys())
    except SafetensorError as error:
        raise UserError(f"model.path={path} is damaged or cut short ({error}): copy or download it again") from error
    if not any(name.startswith(("model.diffusion_model.", "double_blocks.", "joint_blocks.")) for name in names):
        raise UserError(f"model.path={path} holds no diffusion model in its original key layout; an edit goes into edit=…")
    return names


def source(path: Path) -> str:
    """Which file, and whether its U-Net is its EMA weights: what was trained last stands under the U-Net's own names, and
    beside it model_ema.*; a file of EMA weights alone keeps of these only the counters."""
    beside = [name for name in keys(path) if name.startswith("model_ema.")]
    weights = [name for name in beside if name not in ("model_ema.decay", "model_ema.num_updates")]
    ema = "not its EMA weights, which it has too" if weights else "EMA weights" if beside else "EMA or not is not said"
    return f"{path.name}, {ema}"


def pipeline(path: Path, predicts: str = "auto", **given):
    """The checkpoint as a diffusers pipeline in the precision it has on disk, without a safety checker.

    predicts: epsilon or v, whatever the file says; auto: as it says. given: parts that are there already, and are not read.
    """
    import diffusers
    import torch
    from diffusers.loaders.single_file_utils import SingleFileComponentError, fetch_diffusers_config, infer_diffusers_model_type
    from safetensors import safe_open

    from esd.models.precision import dtype_on_disk

    names, beside = keys(path), path.with_suffix("")
    with safe_open(path, "pt") as file:  # the shapes tell the kind: the weights are not read twice
        shapes = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
        said = prediction.of_checkpoint(path, names, file.metadata() or {})
    if predicts != "auto":
        said = prediction.Prediction(prediction.TYPES[predicts])
    taken = shapes[CONV_IN].shape[1] if CONV_IN in shapes else None
    if taken in OTHER_INPUTS:
        raise UserError(f"model.path={path} takes {taken} channels: it is {OTHER_INPUTS[taken]}")
    if (beside / "model_index.json").is_file():
        config, family = beside, folders.pipeline_class(beside)
    else:
        looks = infer_diffusers_model_type(shapes)
        if looks not in KINDS:
            raise UserError(f"model.path={path} looks like {looks}: {folders.SUPPORTED}")
        repository = fetch_diffusers_config(shapes)["pretrained_model_name_or_path"]
        if looks == "v2":
            if said.kind is None:
                raise UserError(
                    f"model.path={path} is a Stable Diffusion 2 and does not say what it predicts: add "
                    "model.prediction=epsilon (the base models, 512 pixels) or model.prediction=v (768 pixels)"
                )
            repository += "-base" * (said.kind == "epsilon")
        config, family = hub.configs(repository, beside), KINDS[looks]
    unused = {part: None for part in folders.OPTIONAL if part in read_json(config / "model_index.json")}
    try:
        found = getattr(diffusers, family).from_single_file(
            str(path), config=str(config), dtype=dtype_on_disk([path]), local_files_only=True, **unused, **given
        )
    except SingleFileComponentError as error:
        raise UserError(f"model.path={path} lacks a part ({error.message.splitlines()[0]}): give a full checkpoint") from error
    except NotImplementedError as error:  # torch's, for a tensor that the file did not fill
        raise UserError(f"model.path={path} lacks tensors of its U-Net or VAE: copy or download it again") from error
    if empty := folders.unfilled_tensor(found):
        raise UserError(f"model.path={path} lacks the tensor {empty}: copy or download it again")
    prediction.settle(found, said if hasattr(found, "unet") or predicts != "auto" else prediction.Prediction(None))
    return found
