"""What a run makes: the changed weights of a denoiser and their record, `edit.safetensors`."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from esd import UserError
from esd.erasing.lora_factors import factors_of, is_lora, merged
from esd.erasing.other_names import in_own_names, without_prefix
from esd.files import atomic_write
from esd.models.hashes import own_weights, tensor_hash

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from esd.erasing.load import Overlap

FORMAT = "esd-edit-1"
RECORD_TYPES = {  # of what is read again from a record
    "base": str, "base_hash": str, "concept": list, "erase_from": list, "eta": int | float, "layers": str, "versions": dict,
    "command": str,
}  # fmt: skip


@dataclass
class Edit:
    """tensors: under their names in the diffusers denoiser, or a LoRA's factors (lora.py). record: base, base_hash, concept,
    eta, layers, steps, …; empty for a file of the authors' script, which has the same tensors and no record."""

    tensors: dict[str, Tensor]
    record: dict = field(default_factory=dict)

    def save(self, path: str | os.PathLike) -> None:
        """Write it as a .safetensors file, which read_edit, load_edit and every command take. Raises UserError for another
        suffix, or where the disk is full."""
        if Path(path).suffix != ".safetensors":
            raise UserError(f"{path} must end in .safetensors")
        save_edit(Path(path).expanduser(), self)

    def apply(self, pipe: DiffusionPipeline, strength: float = 1.0, *, strict: bool = False) -> list[Overlap]:
        """Put it on a diffusers pipeline at this strength, on top of other edits there, or take it off (0): see load_edit."""
        from esd.erasing.load import put_on  # which is built on this file

        return put_on(pipe, self, strength, strict=strict)


def invalid_entry(record: dict) -> str | None:
    """An entry that is of another kind than `esd.train` writes, if there is one: a file from elsewhere may say anything."""
    for key, kind in RECORD_TYPES.items():
        value = record.get(key, kind() if kind in (str, list, dict) else 0)
        if not isinstance(value, kind) or (kind is list and not all(isinstance(text, str) for text in value)):
            return key
    return None


def base_mismatch(edit: Edit, base_hash: str, base: str, strict: bool) -> str | None:
    """A warning that names both models where the edit was made for another; strict makes it a UserError."""
    made_for = edit.record.get("base_hash")
    if made_for in (None, base_hash):
        return None
    said = (
        f"the edit was made for {edit.record.get('base')} ({made_for[:12]}), and this {base} ({base_hash[:12]}) "
        "has other weights: give the model it was made for"
    )
    if strict:
        raise UserError(said)
    return said


def save_edit(path: Path, edit: Edit) -> None:
    """The same edit is the same file, byte for byte: one entry of metadata, for safetensors writes several in any order."""
    record = json.loads(json.dumps(edit.record, default=str))
    sealed = {"format": FORMAT, **record, "sha256": tensor_hash(edit.tensors, json.dumps(record))}
    with atomic_write(path) as temporary:
        save_file(edit.tensors, temporary, {"record": json.dumps(sealed, ensure_ascii=False)})


def read_edit(path: str | Path, allow_pickle: bool = False) -> Edit:
    """Raises UserError where there is no such file, or none that is whole and safe."""
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "edit.safetensors"
    if not path.is_file():
        raise UserError(f"edit={path} does not exist: give the edit.safetensors of a run, or its folder")
    if path.suffix != ".safetensors":
        return Edit(without_prefix(path, _read_pickle(path, allow_pickle)))
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        record = json.loads(metadata.get("record", "{}"))
        json.dumps(record, ensure_ascii=False).encode()  # half a character is no text
        if key := invalid_entry(record):
            raise ValueError(f"its record's {key} is {record[key]}")
        form, seal = record.pop("format", None), record.pop("sha256", None)
        if (form or seal) and seal != tensor_hash(tensors, json.dumps(record)):
            raise ValueError("its content is not what was written")
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise UserError(f"edit={path} is damaged or cut short ({error}): make or copy it again") from error
    return Edit(without_prefix(path, tensors), record)


def _read_pickle(path: Path, allowed: bool) -> dict[str, Tensor]:
    """The state dictionary in a .pt or .ckpt file, as the authors' first scripts wrote it."""
    if not allowed:
        raise UserError(
            f"edit={path} is no .safetensors file; a pickle can run code when it is read: "
            "convert it, or add allow_pickle=true (in Python allow_pickle=True) if you trust where it is from"
        )
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds
        raise UserError(f"edit={path} is damaged, or holds more than tensors") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):  # a Lightning checkpoint, as CompVis' code kept
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"edit={path} holds no dictionary of tensors: give a U-Net's state dictionary")
    return state


def whole(edit: Edit, base: Mapping[str, Tensor]) -> Edit:
    """The edit with whole weights in place of a LoRA's factors. base: the base model's weights, by name."""
    return Edit(merged(factors_of(edit.tensors), base), edit.record) if is_lora(edit.tensors) else edit


def check_edit(denoiser: nn.Module, edit: Edit) -> None:
    """Raises UserError for a tensor that the denoiser has not, or has in another shape. An edit in the original key layout
    has the denoiser's own names from then on."""
    parameters = own_weights(denoiser)
    edit.tensors = in_own_names(denoiser, edit.tensors)
    if not edit.tensors:
        raise UserError("the edit holds no tensors")
    for name, tensor in edit.tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise UserError(f"the edit's {name} holds no finite numbers ({tensor.dtype}): make or copy it again")
    for name, tensor in whole(edit, parameters).tensors.items():
        if name not in parameters:
            raise UserError(f"the edit's {name} is no weight of this {type(denoiser).__name__}: it was made for another model")
        if parameters[name].shape != tensor.shape:
            raise UserError(
                f"the edit's {name} is {tuple(tensor.shape)}, this model's {tuple(parameters[name].shape)}: "
                "it was made for another model"
            )


@torch.no_grad()
def apply_edit(denoiser: nn.Module, edit: Edit) -> dict[str, Tensor]:
    """Put the edit's weights into the denoiser, and return those they replaced: apply them to undo it.

    They keep the more exact of both precisions: in a denoiser of 16 bits a small change would be rounded away. Raises
    UserError, before anything changes, for an edit that does not fit.
    """
    check_edit(denoiser, edit)
    parameters, replaced = own_weights(denoiser), {}
    for name, tensor in whole(edit, parameters).tensors.items():
        replaced[name] = stored = parameters[name].data
        parameters[name].data = tensor.to(stored.device, torch.promote_types(tensor.dtype, stored.dtype), copy=True)
    return replaced
