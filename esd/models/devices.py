"""What suits a device."""

from __future__ import annotations

import torch


def precision_for(device: str) -> str:
    """What to compute in on "cuda", "cpu", …, as Lightning calls it: bf16-mixed on a GPU, and on a processor that has
    instructions for it; else 32-true, for without them a product in bf16 takes dozens of times as long."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if native or device == "cuda" else "32-true"
