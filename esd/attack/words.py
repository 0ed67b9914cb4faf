"""Attacks that only type: other spellings and words, random tokens, and every word of the vocabulary beside the prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch

from esd.attack.target import Found, Target, seeded
from esd.models import text


def tries(target: Target, texts: Sequence[str]) -> Iterator[Found]:
    """Each text is a try of its own."""
    for n, asked in enumerate(texts):
        condition = target.condition([asked])
        yield Found(n + 1, asked, None, lambda seeds, denoiser=None, c=condition: target.draw(c, seeds, denoiser))


class Words:
    """Misspellings of the concept, by rule; other words and languages that the embedded model was taught; what is given.

    words: texts that ask for the concept without its name
    """

    needs, check = (), "base"

    def __init__(self, words: list[str], draws: int):
        self.words, self.draws, self.finds = words, draws, len(words) + 6

    def forwards(self) -> float:
        return 0.0

    def find(self, target: Target, seed: int) -> Iterator[Found]:
        return tries(
            target, dict.fromkeys([*self.words, *target.synonyms, *misspelt(target.prompt, max(target.words, key=len))])
        )


def misspelt(prompt: str, word: str) -> list[str]:
    """The prompt with a letter of this word left out, doubled, exchanged for the next, or a hyphen in it."""
    middle = len(word) // 2
    forms = [
        word[:middle] + word[middle + 1 :],
        word[:middle] + word[middle] + word[middle:],
        word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :] if middle else word,
        word[:middle] + "-" + word[middle:],
        " ".join(word),
        word + "s",
    ]
    found = re.compile(re.escape(word), re.IGNORECASE)  # a target's words are small, its prompt is as it was typed
    return [found.sub(form, prompt) for form in forms if form != word and found.search(prompt)]


class RandomTokens:
    """Random words, as many tries as other attacks have: what chance alone finds. It has no positive check."""

    needs, check = ("vocabulary",), ""

    def __init__(self, tokens: int, tries: int, draws: int):
        self.tokens, self.tries, self.draws, self.finds = tokens, tries, draws, tries

    def forwards(self) -> float:
        return 0.0

    def find(self, target: Target, seed: int) -> Iterator[Found]:
        known = [word for word in text.vocabulary(target.model) if word not in target.words]
        picked = torch.randint(len(known), (self.tries, self.tokens), generator=seeded(seed))
        return tries(target, [" ".join(known[i] for i in row) for row in picked.tolist()])


class OneToken:
    """Every word of the vocabulary before the prompt and behind it; `limit` of them at random where there are more."""

    needs, check = ("vocabulary",), "weak edit"

    def __init__(self, limit: int, draws: int):
        self.limit, self.draws, self.finds = limit, draws, 2 * limit

    def forwards(self) -> float:
        return 0.0

    def find(self, target: Target, seed: int) -> Iterator[Found]:
        known = [word for word in text.vocabulary(target.model) if word not in target.words]
        if len(known) > self.limit:
            known = [known[i] for i in sorted(torch.randperm(len(known), generator=seeded(seed))[: self.limit].tolist())]
        return tries(target, [form for word in known for form in (f"{word} {target.prompt}", f"{target.prompt} {word}")])
