"""Hashes of weights: which base model an edit was made for, and whether a file is what was written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

FUSED_COPY = re.compile(
    r"\.to_(added_)?q?kv\."
)  # what fuse_qkv_projections() puts beside to_q, to_k and to_v, and may leave there
ADAPTER = re.compile(r"\.processor\.|^encoder_hid_proj\.")  # what load_ip_adapter() puts into a denoiser


def tensor_hash(tensors: dict[str, Tensor], about: str = "") -> str:
    """SHA-256 over what stands beside the tensors, and their names, types, shapes and values: a flipped bit shows."""
    found = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def own_weights(denoiser: nn.Module) -> dict[str, Tensor]:
    """A denoiser's weights (the parameters themselves) under the names that its library gives them, whatever stands around
    them: not a LoRA's or an IP-Adapter's matrices, and not the copies that fused projections are."""
    wrapped = [f"{name}." for name, module in denoiser.named_modules() if hasattr(module, "base_layer")]  # PEFT's
    state = {}
    for name, tensor in denoiser.state_dict(keep_vars=True).items():
        inside = max((prefix for prefix in wrapped if name.startswith(prefix)), key=len, default="")
        if FUSED_COPY.search(name) or ADAPTER.search(name) or (inside and not name.startswith(f"{inside}base_layer.")):
            continue
        state[name.replace(".base_layer.", ".")] = tensor
    return state


def fingerprint(denoiser: nn.Module, instead: Mapping[str, Tensor] = MappingProxyType({})) -> str:
    """SHA-256 over the names and values of all weights: which base model an edit was made for.

    Of the values rounded to half precision, so that a model is the same whether it was kept or loaded in 32 or 16 bits.
    instead: values that count for those that the denoiser has.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted({**own_weights(denoiser), **instead}.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        tensor = tensor.dequantize() if hasattr(tensor, "qdata") else tensor  # torchao's
        digest.update(tensor.detach().half().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
