"""Edits on a diffusers pipeline, anywhere: at any strength, several at once, and off again.

from esd import load_edit
load_edit(pipe, "edit.safetensors")
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from esd import UserError
from esd.edits.edit import Edit, base_mismatch, check_edit, read_edit
from esd.models.hashes import fingerprint


class Overlap(NamedTuple):
    """Two edits that change the same tensors: their sum erases both only as far as their changes do not meet."""

    other: str
    tensors: int
    cosine: float  # of the two changes on these tensors: 0 is independent, below 0 each undoes some of the other


@dataclass
class Stack:
    """The edits on a denoiser, and the weights that they changed, as they were."""

    base_hash: str
    base: dict[str, Tensor] = field(default_factory=dict)
    edits: dict[str, tuple[Edit, float]] = field(default_factory=dict)  # by the file's path


def load_edit(
    pipe: DiffusionPipeline, path: str | os.PathLike, strength: float = 1.0, *, strict: bool = False, allow_pickle: bool = False
) -> list[Overlap]:
    """Put an edit on the pipeline's denoiser, in place. Edits add up: W = W₀ + Σ strengthᵢ·(Wᵢ − W₀).

    strength: 0 to 1. The same file again changes its strength; 0 takes it off, and the last one off leaves the base model,
              bit for bit.
    strict:   raise where the edit was made for another base model, or none can be told; otherwise warn
    Returns how it overlaps with the edits already there, and warns of each. Raises UserError for a file that is no edit or
    does not fit, before anything changes. Call it before the pipeline is offloaded or given LoRA weights.
    """
    if not 0 <= strength <= 1:
        raise UserError(f"strength={strength} must be from 0 (the base model) to 1 (the whole edit)")
    denoiser = denoiser_of(pipe)
    edit, key = read_edit(path, allow_pickle), str(Path(path).expanduser().resolve())
    check_edit(denoiser, edit)
    if any(p.is_meta for p in denoiser.parameters()):
        raise UserError("the pipeline's weights are offloaded: call load_edit before enable_sequential_cpu_offload")
    stack = getattr(denoiser, "esd_edits", None) or Stack(fingerprint(denoiser))
    if said := _base_problem(edit, denoiser, stack.base_hash, strict):
        warnings.warn(said, stacklevel=2)

    denoiser.esd_edits = stack
    overlaps = [
        _overlap(name, edit, other, stack.base) for name, (other, _) in stack.edits.items() if name != key and strength
    ]  # fmt: skip
    overlaps = [overlap for overlap in overlaps if overlap.tensors]
    for overlap in overlaps:
        warnings.warn(
            f"{Path(path).name} and {overlap.other} both change {overlap.tensors} tensors (cosine {overlap.cosine:+.2f}): "
            "their sum erases each less exactly than one edit trained on both concepts",
            stacklevel=2,
        )
    parameters = dict(denoiser.named_parameters())
    for name in edit.tensors:
        stack.base.setdefault(name, parameters[name].detach().cpu().clone())
    stack.edits[key] = (edit, strength)
    if strength == 0:
        del stack.edits[key]
    _write(parameters, stack, edit.tensors)
    if not stack.edits:
        del denoiser.esd_edits
    return overlaps


def denoiser_of(pipe: DiffusionPipeline) -> nn.Module:
    """The pipeline's U-Net or transformer, also where it was compiled. Raises UserError where there is none."""
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if denoiser is None:
        raise UserError(f"{type(pipe).__name__} has no U-Net and no transformer to edit")
    return getattr(denoiser, "_orig_mod", denoiser)


def _base_problem(edit: Edit, denoiser: nn.Module, base_hash: str, strict: bool) -> str | None:
    name = denoiser.config.get("_name_or_path") or type(denoiser).__name__
    if next(denoiser.parameters()).dtype not in (torch.float32, torch.float16):  # rounded otherwise than the hash is
        if strict:
            raise UserError(
                "strict=True can tell the base model in float32 and float16 only: load the pipeline in one of these"
            )
        return None
    if strict and "base_hash" not in edit.record:
        raise UserError("the edit does not say which model it was made for: leave out strict=True")
    return base_mismatch(edit, base_hash, name, strict)


@torch.no_grad()
def _write(parameters: dict[str, nn.Parameter], stack: Stack, names: dict[str, Tensor]) -> None:
    for name in names:
        base = stack.base[name].float()
        moved = [torch.lerp(base, edit.tensors[name].float(), s) for edit, s in stack.edits.values() if name in edit.tensors]
        value = moved[0] if len(moved) == 1 else base + sum(w - base for w in moved)  # one edit at 1 is exact
        parameters[name].copy_(value if moved else stack.base[name])


def _overlap(path: str, edit: Edit, other: Edit, base: dict[str, Tensor]) -> Overlap:
    common = [name for name in edit.tensors if name in other.tensors]
    one, two, dot = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for name in common:
        a, b = ((e.tensors[name].float() - base[name].float()).flatten().double() for e in (edit, other))
        one, two, dot = one + a @ a, two + b @ b, dot + a @ b
    return Overlap(Path(path).name, len(common), float(dot / (one * two).sqrt().clamp(min=1e-30)))
