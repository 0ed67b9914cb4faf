"""How much of a prompt the text encoders read: each family cuts what is longer, without a word."""

from __future__ import annotations

import inspect

from diffusers import DiffusionPipeline
from transformers import CLIPTokenizer


def named(text: str) -> str:
    """A text in one line, in quotes; of a long one the beginning and the end."""
    text = " ".join(text.split())
    return f"'{text}'" if len(text) <= 160 else f"'{text[:100]} … {text[-50:]}'"


def token_limits(pipeline: DiffusionPipeline) -> list[tuple[object, int]]:
    """Each tokenizer with the tokens, start and end included, that its encoder is given.

    Of a CLIP they are as many as it has places for; of T5 what the pipeline gives it (SD3 256, FLUX 512).
    """
    given = inspect.signature(pipeline.encode_prompt).parameters.get("max_sequence_length")
    found = [part for name, part in pipeline.components.items() if name.startswith("tokenizer") and part is not None]
    return [(part, part.model_max_length if isinstance(part, CLIPTokenizer) else given.default) for part in found]


def unread(pipeline: DiffusionPipeline, prompt: str) -> str:
    """The end of the prompt that no text encoder reads; "" where one of them reads it all."""
    starts = []
    for tokenizer, limit in token_limits(pipeline):
        places = tokenizer(prompt, return_offsets_mapping=True).offset_mapping  # of each token, in the prompt
        starts.append(len(prompt) if len(places) <= limit else places[limit - 1][0])
    return prompt[max(starts) :]
