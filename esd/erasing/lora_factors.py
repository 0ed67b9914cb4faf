"""Edits that hold low-rank factors (LoRA, Hu et al. 2021, arXiv 2106.09685) in place of whole weights: W = W₀ + up·down.

`<part>.<module>.lora_A.weight` is down (r, in[, kh, kw]) and `….lora_B.weight` up (out, r[, 1, 1]); part is unet or
transformer, as `load_lora_weights` takes them. The scale alpha / rank is in up already.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from esd import UserError

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
PARTS = ("unet.", "transformer.")

Factors = dict[str, tuple[Tensor, Tensor]]  # by the module's name: down, up


def is_lora(tensors: Mapping[str, Tensor]) -> bool:
    return any(key.endswith((DOWN, UP)) for key in tensors)


def factors_of(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors in an edit. Raises UserError for a tensor that is none, or has no other half of its rank."""
    found = {}
    for key, tensor in tensors.items():
        down, up = tensors.get(key.removesuffix(UP) + DOWN), tensors.get(key.removesuffix(DOWN) + UP)
        if key.endswith(DOWN) and up is not None and up.dim() > 1 and up.shape[1] == tensor.shape[0]:
            module = key.removesuffix(DOWN)
            for part in PARTS:
                module = module.removeprefix(part)
            found[module] = (tensor, up)
        elif not key.endswith(UP) or down is None:
            raise UserError(f"the edit's {key} is no half of a LoRA's pair: make or copy it again")
    return found


def tensors_of(factors: Factors, part: str) -> dict[str, Tensor]:
    """The factors under the names of a file. part: "unet" or "transformer"."""
    return {
        f"{part}.{module}{end}": tensor.contiguous()
        for module, pair in factors.items()
        for end, tensor in zip((DOWN, UP), pair, strict=True)
    }


def merged(factors: Factors, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole weights, by their names, in float32 on the CPU. base: the base model's. Raises UserError where one does not
    fit."""
    weights = {}
    for module, (down, up) in factors.items():
        name = f"{module}.weight"
        if name not in base:
            raise UserError(f"the edit's {name} is no weight of this model: it was made for another")
        stored = base[name]
        if (up.shape[0], *down.shape[1:]) != tuple(stored.shape):
            raise UserError(
                f"the edit's {name} is {(up.shape[0], *down.shape[1:])}, this model's {tuple(stored.shape)}: "
                "it was made for another model"
            )
        change = up.cpu().flatten(1).float() @ down.cpu().flatten(1).float()
        weights[name] = stored.detach().cpu().float() + change.view(stored.shape)
    return weights
