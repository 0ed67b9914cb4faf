"""Text encoders: on the device only while they encode, and out of memory when a run's prompts are encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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


def where_they_fit(encoders: Iterable[nn.Module], device: torch.device) -> torch.device:
    """The device, or the CPU where what it has left is less than a quarter more than these are."""
    if device.type != "cuda":
        return device
    size = sum(p.numel() * p.element_size() for encoder in encoders for p in encoder.parameters())
    return device if torch.cuda.mem_get_info(device)[0] > 1.25 * size else torch.device("cpu")


def release_text_encoders(
    model: Model, keep: Sequence[str], again: Callable[[], dict[str, nn.Module]], device: torch.device
) -> None:  # fmt: skip
    """Encode the prompts of `keep`, on this device where there is room, then let go of the text encoders, of which T5 alone
    holds 9 to 19 GB.

    From now on `model.encode` has these prompts at hand; asked for others, it gets the encoders by `again`, and keeps them.
    """
    encode, rows = model.encode, {prompt: row for row, prompt in enumerate(dict.fromkeys(keep))}
    place = where_they_fit(text_encoders(model.base).values(), device)
    kept = {name: states.cpu() for name, states in encode(list(rows), place).items()}
    model.base.register_modules(**dict.fromkeys(text_encoders(model.base)))

    def encode_kept(prompts: Sequence[str], device: torch.device | str = "cpu") -> Condition:
        if all(prompt in rows for prompt in prompts):
            return {name: tensor[[rows[prompt] for prompt in prompts]].to(device) for name, tensor in kept.items()}
        if not text_encoders(model.base):
            model.base.register_modules(**again())
        return encode(prompts, device)

    model.encode = encode_kept
