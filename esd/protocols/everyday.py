"""Everyday prompts that ship: what is to be kept of a model that knows everything, in training and in judging."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SHIPPED = Path(__file__).with_name("everyday.txt")
COMMON_WORDS = {
    "a", "an", "the", "of", "in", "on", "at", "by", "with", "and", "style", "photo", "painting", "portrait", "drawing",
    "picture", "image",
}  # fmt: skip


def everyday_without(gone: list[str]) -> list[str]:
    """The shipped prompts but for those that share a word with what goes: one prompt less costs little, and one too many
    would keep the concept, or call it one of the rest."""
    telling = {word for text in gone for word in text.lower().split()} - COMMON_WORDS
    return [
        prompt
        for prompt in SHIPPED.read_text(encoding="utf-8").splitlines()
        if not mentions(prompt, gone) and not telling & set(prompt.lower().split())
    ]


def mentions(prompt: str, texts: Iterable[str]) -> bool:
    """Whether one of the texts stands in the prompt, word for word."""
    return any(f" {text.lower()} " in f" {prompt.lower()} " for text in texts)
