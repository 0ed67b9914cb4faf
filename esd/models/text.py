"""Prompts with free vectors in place of words: what an attacker who holds the weights can say beyond the vocabulary.

A prompt holds a placeholder for every free vector. While it is encoded, the embedding of each placeholder in each of the
family's text encoders is replaced; gradients flow back to the vectors, for the encoders themselves are frozen.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from esd import UserError
from esd.models.family import Condition, Model

PLACEHOLDERS = ("*", "x", "z", "q")  # the first that all the tokenizers know takes the free vectors' places


def encoders(model: Model) -> list[tuple[object, nn.Module]]:
    """(tokenizer, text encoder) of each that the pipeline has."""
    pairs = [
        (getattr(model.base, f"tokenizer{n}", None), getattr(model.base, f"text_encoder{n}", None)) for n in ("", "_2", "_3")
    ]
    return [(tokenizer, encoder) for tokenizer, encoder in pairs if tokenizer is not None and encoder is not None]


def tokens(tokenizer, text: str) -> list[int]:
    """The text's token ids, without those that open and close every prompt."""
    return tokenizer(text, add_special_tokens=False).input_ids


def free_tokens(model: Model, text: str = "") -> int:
    """How many tokens have room beside this text in every encoder."""
    longest = min(
        tokenizer.model_max_length - (2 if tokenizer.bos_token_id is not None else 1) for tokenizer, _ in encoders(model)
    )
    return longest - max(len(tokens(tokenizer, text)) for tokenizer, _ in encoders(model))


def vocabulary(model: Model) -> list[str]:
    """The words that are one token each. Raises UserError where the encoders' vocabularies differ."""
    first, *others = [tokenizer for tokenizer, _ in encoders(model)]
    if any(other.get_vocab() != first.get_vocab() for other in others):
        raise UserError(f"{model.name} reads prompts with two vocabularies: no attack that searches one can be had for it")
    words = [piece.removesuffix("</w>") for piece in sorted(first.get_vocab()) if piece.endswith("</w>")]
    return [word for word in words if word.isalnum() and len(tokens(first, word)) == 1]


def embeddings(model: Model, words: Sequence[str]) -> list[Tensor]:
    """What each encoder embeds these one-token words as: (V, D) for each encoder."""
    rows = []
    for tokenizer, encoder in encoders(model):
        ids = torch.tensor([tokens(tokenizer, word)[0] for word in words])
        rows.append(encoder.get_input_embeddings().weight.detach().cpu()[ids].float())
    return rows


def encode_with(model: Model, prompt: str, vectors: Sequence[Tensor], before: bool = False) -> Condition:
    """The prompt with k free vectors behind it, or before it, as a condition of B rows.

    vectors: (B, k, D) for each text encoder, in the order of `encoders`. Raises UserError where they do not fit.
    """
    batch, k = vectors[0].shape[:2]
    if k > (room := free_tokens(model, prompt)):
        raise UserError(f"{k} free tokens do not fit: beside '{prompt}' the text encoder of {model.name} has room for {room}")
    holder = _placeholder(model, prompt)
    places = " ".join([holder] * k)
    text = " ".join(filter(None, [places, prompt] if before else [prompt, places]))
    with contextlib.ExitStack() as stack:
        for (tokenizer, encoder), free in zip(encoders(model), vectors, strict=True):
            stack.enter_context(_replaced(encoder, tokens(tokenizer, holder)[-1], free))
        encode = inspect.unwrap(type(model).encode)  # without its no_grad
        return encode(model, [text] * batch, vectors[0].device)


def _placeholder(model: Model, prompt: str) -> str:
    """A word whose last token in each vocabulary stands for it alone: once in each repetition, and nowhere in the prompt."""
    for word in PLACEHOLDERS:
        rows = [  # a word that a tokenizer does not know becomes a special token, which stands elsewhere too
            (tokens(t, word), tokens(t, f"{word} {word}"), [*tokens(t, prompt), *t.all_special_ids]) for t, _ in encoders(model)
        ]
        if all(one.count(one[-1]) == 1 and two.count(one[-1]) == 2 and one[-1] not in there for one, two, there in rows):
            return word
    raise UserError(f"the tokenizer of {model.name} has no token to stand for a free vector beside '{prompt}'")


@contextlib.contextmanager
def _replaced(encoder: nn.Module, token: int, vectors: Tensor) -> Iterator[None]:
    """While it lasts, the encoder embeds this token's occurrences as the vectors (B, k, D), row by row."""

    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        here = args[0] == token  # (B, S)
        if not here.any():
            return output
        index = (here.cumsum(1) - 1).clamp(min=0)  # which of a row's free vectors stands here
        placed = vectors.to(output).gather(1, index[..., None].expand(-1, -1, output.shape[-1]).clamp(max=vectors.shape[1] - 1))
        return torch.where(here[..., None], placed, output)

    weight = encoder.get_input_embeddings().weight
    tables = [m for m in encoder.modules() if isinstance(m, nn.Embedding) and m.weight is weight]  # T5 has two, and calls one
    handles = [table.register_forward_hook(hook) for table in tables]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
