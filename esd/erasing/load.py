"""Edits on a diffusers pipeline, anywhere: at any strength, several at once, and off again.

from esd import load_edit
load_edit(pipe, "edit.safetensors")
"""

from __future__ import annotations

import itertools
import numbers
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from esd import UserError
from esd.erasing.edit import Edit, base_mismatch, check_edit, read_edit, whole
from esd.models.hashes import fingerprint, own_weights


class Overlap(NamedTuple):
    """Two edits that change the same tensors: their sum erases both only as far as their changes do not meet."""

    other: str
    tensors: int
    cosine: float  # of the two changes on these tensors: 0 is independent, below 0 each undoes some of the other


@dataclass
class Stack:
    """The edits on a denoiser, and the weights that they changed, as they were."""

    base_hash: str = ""  # of the model below the edits, when the last of them came
    base: dict[str, Tensor] = field(default_factory=dict)
    edits: dict[str, tuple[Edit, float]] = field(default_factory=dict)  # by the file's path, or a number

    def key_of(self, edit: Edit, path: str | os.PathLike | None) -> str:
        """Where the edit stands, or will: the same tensors are the same edit, wherever from, and so is the same file."""
        for key, (other, _) in self.edits.items():
            if edit.tensors.keys() == other.tensors.keys() and all(
                torch.equal(tensor, other.tensors[name]) for name, tensor in edit.tensors.items()
            ):
                return key
        if path is not None:
            return _key(path)
        number = next(n for n in itertools.count(1) if f"not saved, {n}" not in self.edits)
        return f"not saved, {number}"

    def value(self, name: str) -> Tensor:
        """W = W₀ + Σ strengthᵢ·(Wᵢ − W₀), in the type of W₀."""
        base = self.base[name].float()
        moved = [torch.lerp(base, edit.tensors[name].float(), s) for edit, s in self.edits.values() if name in edit.tensors]
        value = moved[0] if len(moved) == 1 else base + sum(w - base for w in moved)  # one edit at 1 is exact
        return value.to(self.base[name].dtype) if moved else self.base[name]


def load_edit(
    pipe: DiffusionPipeline | nn.Module, path: str | os.PathLike, strength: float = 1.0, *, strict: bool = False,
    allow_pickle: bool = False,
) -> list[Overlap]:  # fmt: skip
    """Put an edit on the pipeline's denoiser, in place. Edits add up: W = W₀ + Σ strengthᵢ·(Wᵢ − W₀).

    pipe:     a pipeline, or its U-Net or transformer alone; compiled, or with LoRA weights that are not fused, too
    strength: 0 to 1. The same file again changes its strength; 0 takes it off, and the last one off leaves the base model,
              bit for bit.
    strict:   raise where the edit was made for another base model, or none can be told; otherwise warn
    Returns how it overlaps with the edits already there, and warns of each. Raises UserError, before anything changes, for a
    file that is no edit or does not fit, for weights that stand elsewhere than where they would be written (offloaded,
    quantized, fused), and for weights that something else has changed since the last edit.
    """
    return put_on(pipe, read_edit(path, allow_pickle), strength, strict=strict, path=path)


def put_on(
    pipe: DiffusionPipeline | nn.Module, edit: Edit, strength: float = 1.0, *, strict: bool = False,
    path: str | os.PathLike | None = None,
) -> list[Overlap]:  # fmt: skip
    """What load_edit does, for an edit that is at hand; path: where it was read from, if it was."""
    if not isinstance(strength, numbers.Real) or not 0 <= strength <= 1:
        raise UserError(f"strength={strength!r} must be a number from 0 (the base model) to 1 (the whole edit)")
    denoiser = denoiser_of(pipe)
    check_writable(denoiser, before="load_edit")
    check_edit(denoiser, edit)
    weights, stack = own_weights(denoiser), getattr(denoiser, "esd_edits", None) or Stack()
    _check_unchanged(weights, stack)
    edit = whole(edit, weights | stack.base)
    key = stack.key_of(edit, path)
    if key not in stack.edits:
        stack.base_hash = fingerprint(denoiser, stack.base)
    if said := _base_problem(edit, denoiser, stack.base_hash, strict):
        warnings.warn(said, stacklevel=3)

    before, _ = stack.edits.get(key, (edit, 0.0))  # a run may have written the file again since
    kept = {name: weights[name].detach().cpu().clone() for name in edit.tensors if name not in stack.base}
    edits = {**stack.edits, key: (edit, float(strength))}
    if strength == 0:
        del edits[key]
    after = Stack(stack.base_hash, stack.base | kept, edits)
    overlaps = [_overlap(key, edit, name, other, after.base) for name, (other, _) in edits.items() if name != key and strength]
    overlaps = [overlap for overlap in overlaps if overlap.tensors]
    for overlap in overlaps:
        warnings.warn(
            f"{_called(key, edit)} and {overlap.other} both change {overlap.tensors} tensors (cosine {overlap.cosine:+.2f}): "
            "their sum erases each less exactly than one edit trained on both concepts",
            stacklevel=3,
        )
    for name in {**before.tensors, **edit.tensors}:
        _write(weights[name], after.value(name))
    changed = {name for other, _ in edits.values() for name in other.tensors}
    after.base = {name: tensor for name, tensor in after.base.items() if name in changed}
    denoiser.esd_edits = after
    if not edits:
        del denoiser.esd_edits
    return overlaps


def denoiser_of(pipe: DiffusionPipeline | nn.Module) -> nn.Module:
    """The pipeline's U-Net or transformer (or what is one itself), also where it was compiled. Raises UserError where there
    is none."""
    parts = [pipe] if isinstance(pipe, nn.Module) else [getattr(pipe, name, None) for name in ("unet", "transformer")]
    denoiser = next((part for part in parts if part is not None), None)  # not `or`: a compiled module has no truth value
    denoiser = getattr(denoiser, "_orig_mod", denoiser)
    if not isinstance(denoiser, nn.Module):
        raise UserError(f"{type(pipe).__name__} has no U-Net and no transformer to edit: give a diffusers pipeline")
    return denoiser


def _key(path: str | os.PathLike) -> str:
    """What an edit is known by: its file, also where its folder was given."""
    path = Path(path).expanduser().resolve()
    return str(path / "edit.safetensors" if path.is_dir() else path)


def _called(key: str, edit: Edit) -> str:
    """An edit, told apart from others: the concept, if it says so, and the folder (a run's) or file that it is in."""
    path, concepts = Path(key), ", ".join(edit.record.get("concept", []))
    place = path.parent.name if path.name == "edit.safetensors" else path.name
    return f"'{concepts}' ({place})" if concepts else place


def check_writable(denoiser: nn.Module, before: str) -> None:
    """Raises UserError where what is written into the weights would not be what is computed with. before: what to call
    earlier."""
    if any(weight.is_meta for weight in denoiser.parameters()):
        raise UserError(f"the pipeline's weights are offloaded: call {before} before enable_sequential_cpu_offload")
    for module in denoiser.modules():
        if hooks := getattr(getattr(module, "_diffusers_hook", None), "hooks", {}):
            if any("group_offloading" in name for name in hooks):
                raise UserError(f"the pipeline's weights are offloaded: call {before} before enable_group_offload")
            if any("layerwise_casting" in name for name in hooks):
                raise UserError(f"the pipeline's weights are kept in fewer bits: call {before} before enable_layerwise_casting")
        if getattr(module, "merged", False) and hasattr(module, "base_layer"):
            raise UserError(f"LoRA weights are fused into the pipeline's: call unfuse_lora before {before}, and fuse again")
        # A U-Net's attention keeps saying that it is fused after it no longer is; its processor tells.
        if getattr(module, "fused_projections", False) and (
            not isinstance(module, Attention) or "Fused" in type(module.processor).__name__
        ):
            raise UserError(f"the pipeline computes with fused projections: call unfuse_qkv_projections before {before}")
    for weight in denoiser.parameters():
        if not weight.is_floating_point() or type(weight.data) is not Tensor:
            raise UserError(f"the pipeline's weights are quantized: load it unquantized, or quantize it after {before}")


def _check_unchanged(weights: dict[str, Tensor], stack: Stack) -> None:
    """Raises UserError where a weight is not what the edits made it. What rounding leaves (a LoRA that was fused and unfused)
    is no change."""
    for name in stack.base:
        is_now = weights[name].detach().cpu()
        expected = stack.value(name).to(is_now.dtype)
        if torch.equal(is_now, expected):
            continue
        away = float((is_now.float() - expected.float()).norm())
        if not away <= 2 * torch.finfo(is_now.dtype).eps * float(expected.float().norm()):
            raise UserError(
                f"something else has changed the pipeline's weights since the last load_edit ({name}): undo that first "
                "(a fused LoRA, other weights that were loaded), or load the pipeline again"
            )


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


def _write(weight: Tensor, value: Tensor) -> None:
    with torch.inference_mode() if weight.is_inference() else torch.no_grad():  # those of a model that was loaded so
        weight.copy_(value)


def _overlap(key: str, edit: Edit, other_key: str, other: Edit, base: dict[str, Tensor]) -> Overlap:
    common = [name for name in edit.tensors if name in other.tensors]
    one, two, dot = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for name in common:
        a, b = ((e.tensors[name].float() - base[name].float()).flatten().double() for e in (edit, other))
        one, two, dot = one + a @ a, two + b @ b, dot + a @ b
    return Overlap(_called(other_key, other), len(common), float(dot / (one * two).sqrt().clamp(min=1e-30)))
