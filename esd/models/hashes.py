"""Hashes of weights: which base model an edit was made for, and whether a file is what was written."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def tensor_hash(tensors: dict[str, Tensor], about: str = "") -> str:
    """SHA-256 over what stands beside the tensors, and their names, types, shapes and values: a flipped bit shows."""
    found = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def fingerprint(denoiser: nn.Module) -> str:
    """SHA-256 over the names and values of all weights: which base model an edit was made for.

    Of the values rounded to half precision, so that a model is the same whether it was kept or loaded in 32 or 16 bits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(denoiser.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().half().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
