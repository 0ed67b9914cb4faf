"""What else people have instead of an edit: read where plain renaming does it, else named for what it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from esd import UserError
from esd.models.original_names import unet_names

LORA = {  # a part of a key → whose LoRA it is
    "lora_unet_": "kohya's", "lora_te": "kohya's", "lycoris_": "LyCORIS'", ".hada_w": "LyCORIS'", ".lokr_w": "LyCORIS'",
    "base_model.model.": "PEFT's own", "_lora.": "an old diffusers'", ".lora.": "an old diffusers'", ".lora_down.": "kohya's",
}  # fmt: skip
OTHERS = ("first_stage_model.", "cond_stage_model.", "conditioner.")  # VAE and text encoders of a whole checkpoint
ORIGINAL = ("model.diffusion_model.", "diffusion_model.", "")  # before the U-Net's names in the original layout
FACTORS = (".lora_A.weight", ".lora_B.weight")  # of an edit that holds a LoRA


def without_prefix(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, without the name of the pipeline's part where all have it. Raises UserError for a LoRA in names that are no
    edit's, and for a whole checkpoint."""
    if kind := next((kind for sign, kind in LORA.items() if any(sign in name for name in tensors)), None):
        raise UserError(
            f"edit={path} is a LoRA (in {kind} names) and no edit: pipe.load_lora_weights loads it; here give the "
            "edit.safetensors that it was exported from"
        )
    if any(name.startswith(OTHERS) for name in tensors):
        raise UserError(
            f"edit={path} is a whole checkpoint, with its VAE and text encoder, and no edit: give it as model.path=…, "
            "or its U-Net's tensors alone"
        )
    for part in ("unet.", "transformer."):
        if tensors and all(name.startswith(part) and not name.endswith(FACTORS) for name in tensors):
            return {name.removeprefix(part): tensor for name, tensor in tensors.items()}
    return tensors


def in_own_names(denoiser: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the denoiser's own names, where all have those of the original layout (input_blocks.…); else as they
    are."""
    if not isinstance(denoiser, UNet2DConditionModel) or not any(_is_original(name) for name in tensors):
        return tensors
    own = {original: name for name, original in unet_names(denoiser).items()}
    prefix = next(prefix for prefix in ORIGINAL if next(iter(tensors)).startswith(prefix))
    renamed = {own.get(name.removeprefix(prefix)): tensor for name, tensor in tensors.items()}
    return tensors if None in renamed else renamed


def _is_original(name: str, starts: Iterable[str] = ("input_blocks.", "middle_block.", "output_blocks.")) -> bool:
    return any(name.startswith(tuple(prefix + start for start in starts)) for prefix in ORIGINAL)
