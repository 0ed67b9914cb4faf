"""What a run makes: the changed weights of a denoiser and their record, `edit.safetensors`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from esd.command import Mistake
from esd.files import whole

FORMAT = "esd-edit-1"


@dataclass
class Edit:
    """tensors: under their names in the diffusers denoiser. record: base, base_hash, concept, eta, layers, steps, …;
    empty for a file of the authors' script, which has the same tensors and no record."""

    tensors: dict[str, Tensor]
    record: dict = field(default_factory=dict)


def fingerprint(denoiser: nn.Module) -> str:
    """SHA-256 over the names and the bytes of all weights: which base model an edit was made for."""
    digest = hashlib.sha256()
    for name, tensor in sorted(denoiser.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_edit(path: Path, edit: Edit) -> None:
    metadata = {"format": FORMAT, "record": json.dumps(edit.record, ensure_ascii=False, default=str)}
    with whole(path) as temporary:
        save_file(edit.tensors, temporary, metadata)


def read_edit(path: str | Path) -> Edit:
    """Raises Mistake where there is no such file, or none that is whole and safe."""
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "edit.safetensors"
    if not path.is_file():
        raise Mistake(f"edit={path} does not exist: give the edit.safetensors of a run, or its folder")
    if path.suffix != ".safetensors":
        raise Mistake(f"edit={path} is no .safetensors file; a pickle can run code when it is read, so it is not")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        record = json.loads(metadata.get("record", "{}"))
    except (SafetensorError, json.JSONDecodeError, ValueError) as error:
        raise Mistake(f"edit={path} is damaged or cut short ({error}): make or copy it again") from error
    return Edit(tensors, record)


def apply(denoiser: nn.Module, edit: Edit) -> dict[str, Tensor]:
    """Put the edit's weights into the denoiser, in place, and return those they replaced: apply them to undo it.

    Raises Mistake, before anything changes, for a tensor that the denoiser has not, or has in another shape.
    """
    parameters = dict(denoiser.named_parameters())
    if not edit.tensors:
        raise Mistake("the edit holds no tensors")
    for name, tensor in edit.tensors.items():
        if name not in parameters:
            raise Mistake(f"the edit's {name} is no weight of this {type(denoiser).__name__}: it was made for another model")
        if parameters[name].shape != tensor.shape:
            raise Mistake(
                f"the edit's {name} is {tuple(tensor.shape)}, this model's {tuple(parameters[name].shape)}: "
                "it was made for another model"
            )
    with torch.no_grad():
        replaced = {name: parameters[name].detach().clone() for name in edit.tensors}
        for name, tensor in edit.tensors.items():
            parameters[name].copy_(tensor)
    return replaced
