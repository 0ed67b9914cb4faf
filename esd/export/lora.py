"""An edit as LoRA (Hu et al. 2021, arXiv 2106.09685): each change of a matrix by its singular value decomposition, cut.

    ΔW ≈ up · down,  up = U·√S (out, r),  down = √S·Vᵀ (r, in); of a convolution, in · kh · kw is what goes in

All matrices get one rank, and alpha is that rank, so that every loader's scale alpha / rank is 1: files whose alphas or
ranks differ from matrix to matrix are scaled wrongly by some. LoRA has no place for biases and norms: they are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esd import UserError
from esd.erasing.lora_factors import factors_of, tensors_of
from esd.models.original_names import unet_names


@dataclass
class Lora:
    """factors: by the module's name, down (r, in[, kh, kw]) and up (out, r[, 1, 1]). left_out: changed tensors without one."""

    factors: dict[str, tuple[Tensor, Tensor]]
    rank: int
    left_out: list[str]
    error: float  # ‖ΔW − what the LoRA does‖ / ‖ΔW‖ over all changed tensors, those left out included

    def tensors(self, base: dict[str, Tensor]) -> dict[str, Tensor]:
        """The base's weights with the LoRA added: what a loader makes of it."""
        return {
            f"{name}.weight": base[f"{name}.weight"] + (up.flatten(1) @ down.flatten(1)).view_as(base[f"{name}.weight"])
            for name, (down, up) in self.factors.items()
        }


def trained(edit: dict[str, Tensor]) -> Lora:
    """The factors of an edit that was trained as LoRA, as they are."""
    factors = factors_of(edit)
    ranks = {len(down) for down, _ in factors.values()}
    if len(ranks) > 1:
        raise UserError(f"the edit's LoRA has several ranks ({min(ranks)} to {max(ranks)}): give rank={max(ranks)} to have one")
    return Lora(factors, ranks.pop(), [], 0.0)


def decompose(base: dict[str, Tensor], edit: dict[str, Tensor], rank: int | None = None, energy: float | None = None) -> Lora:
    """rank: of every matrix, where it has as much. energy: instead, the share of the squared change of all matrices together
    that the smallest such rank keeps, above 0 and up to 1. Raises UserError for any other, or where no matrix changed."""
    if (rank is None) == (energy is None):
        raise UserError("give either rank=16 or energy=0.95, and not both")
    if rank is not None and rank < 1:
        raise UserError(f"rank={rank} keeps nothing: give 1 or more, for example rank=16")
    if energy is not None and not 0 < energy <= 1:
        raise UserError(f"energy={energy} must be above 0 and up to 1, for example energy=0.95")
    changes = {name: tensor.float() - base[name].float() for name, tensor in edit.items()}
    total = sum(float(change.square().sum()) for change in changes.values())
    matrices = {name: change for name, change in changes.items() if change.dim() in (2, 4) and change.any()}
    if not matrices:
        raise UserError("the edit changes no matrix: there is nothing that LoRA could hold")
    parts = {name: torch.linalg.svd(change.flatten(1), full_matrices=False) for name, change in matrices.items()}
    full = max(len(s) for _, s, _ in parts.values())
    r = min(rank, full) if rank is not None else _rank_for(energy, [s for _, s, _ in parts.values()], full)
    factors, left = {}, total - sum(float(change.square().sum()) for change in matrices.values())
    for name, (u, s, v) in parts.items():
        change, root = matrices[name], s[:r].sqrt()
        down, up = change.new_zeros(r, v.shape[1]), change.new_zeros(u.shape[0], r)  # narrow matrices: zeros up to r
        down[: len(root)], up[:, : len(root)] = root[:, None] * v[:r], u[:, :r] * root
        left += float(s[r:].square().sum())
        window = change.shape[2:]
        factors[name.removesuffix(".weight")] = (down.view(r, change.shape[1], *window), up.view(-1, r, *[1] * len(window)))
    left_out = [name for name, change in changes.items() if name not in matrices and change.any()]
    return Lora(factors, r, left_out, math.sqrt(max(0.0, left / total)))


def _rank_for(energy: float, spectra: list[Tensor], full: int) -> int:
    kept = torch.zeros(full, dtype=torch.float64)
    for s in spectra:
        kept[: len(s)] += s.double().square()
    kept = kept.cumsum(0) / kept.sum()
    return min(full, int((kept < energy - 1e-12).sum()) + 1)


def peft_keys(lora: Lora, denoiser: nn.Module) -> dict[str, Tensor]:
    """As `pipe.load_lora_weights` takes it; without alphas the scale is 1."""
    return tensors_of(lora.factors, "transformer" if "Transformer" in type(denoiser).__name__ else "unet")


def kohya_keys(lora: Lora, denoiser: nn.Module) -> dict[str, Tensor]:
    """As kohya's scripts write it and A1111 and ComfyUI read it: diffusers' names for Stable Diffusion 1 and 2, the original
    ones for XL. Raises UserError for a transformer, whose matrices that layout joins."""
    if "Transformer" in type(denoiser).__name__:
        raise UserError("format=kohya is for Stable Diffusion 1, 2 and XL: for SD3 and FLUX use format=peft")
    names = unet_names(denoiser) if getattr(denoiser, "add_embedding", None) is not None else {}
    keys = {}
    for name, (down, up) in lora.factors.items():
        flat = names.get(f"{name}.weight", f"{name}.weight").removesuffix(".weight").replace(".", "_")
        keys |= {
            f"lora_unet_{flat}.lora_down.weight": down.contiguous(),
            f"lora_unet_{flat}.lora_up.weight": up.contiguous(),
            f"lora_unet_{flat}.alpha": torch.tensor(float(lora.rank)),
        }
    return keys
