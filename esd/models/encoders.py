"""Text encoders: on the device only while they encode, and out of memory when a run's prompts are encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import DiffusionPipeline
from torch import nn

from esd.models.family import Condition, Model


def text_encoders(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """Those that are in memory, by their names in the pipeline."""
    return {name: part for name, part in pipeline.components.items() if name.startswith("text_encoder") and part is not None}


def text_encoders_again(model: Model) -> dict[str, nn.Module]:
    """Those that are in memory; where they were let go of, read once more."""
    return text_encoders(model.base) or model.encoders_again()


def release_text_encoders(model: Model, keep: Sequence[str], again: Callable[[], dict[str, nn.Module]]) -> None:
    """Encode the prompts of `keep`, then let go of the text encoders, of which T5 alone holds 9 to 19 GB.

    From now on `model.encode` has these prompts at hand; asked for others, it gets the encoders by `again`, and keeps them.
    """
    encode, rows = model.encode, {prompt: row for row, prompt in enumerate(dict.fromkeys(keep))}
    kept = encode(list(rows))
    model.base.register_modules(**dict.fromkeys(text_encoders(model.base)))

    def encode_kept(prompts: Sequence[str], device: torch.device | str = "cpu") -> Condition:
        if all(prompt in rows for prompt in prompts):
            return {name: tensor[[rows[prompt] for prompt in prompts]].to(device) for name, tensor in kept.items()}
        if not text_encoders(model.base):
            model.base.register_modules(**again())
        return encode(prompts, device)

    model.encode = encode_kept
