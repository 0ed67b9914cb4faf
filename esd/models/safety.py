"""The safety checker that a pipeline ships with: which pictures it would hide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from esd import UserError
from esd.models import folder_of, hub

if TYPE_CHECKING:
    from torch import nn

PARTS = ["safety_checker/*", "feature_extractor/*"]


def safety_checker(path: str | None, name: str) -> tuple[nn.Module, dict]:
    """The checker of `model.path`, and how it looks at pictures (its feature extractor's configuration).

    Raises UserError where there is none, or its weights cannot be had.
    """
    place = folder_of(path)
    index = json.loads((place / "model_index.json").read_text(encoding="utf-8")) if place.is_dir() else {}
    if not (index.get("safety_checker") or [None])[0]:
        raise UserError(f"against=filter: {name} has no safety checker (Stable Diffusion 1 has one)")
    if not (place / "safety_checker" / "config.json").is_file() and not Path(str(path)).expanduser().is_dir():
        from huggingface_hub import snapshot_download

        hub.require_reachable(str(path), f"--include {' '.join(map(repr, PARTS))}")
        place = Path(snapshot_download(str(path), allow_patterns=PARTS, etag_timeout=hub.WAIT))
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    try:
        checker = StableDiffusionSafetyChecker.from_pretrained(place / "safety_checker", use_safetensors=True)
        look = json.loads((place / "feature_extractor" / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"against=filter: the safety checker in {place} cannot be read ({reason})") from error
    return checker.eval().requires_grad_(False), look
