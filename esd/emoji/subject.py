"""What a text is about, for the embedded model: which objects and which styles a picture of it may show."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from esd import UserError
from esd.emoji import words

_KNOWN = set(words.vocabulary())


@dataclass(frozen=True)
class Subject:
    """objects: any of these counts (none: any object does). styles: likewise. Both must hold."""

    objects: frozenset[str] = frozenset()
    styles: frozenset[str] = frozenset()


def words_of(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", text.lower()) if word]


def unknown_words(text: str) -> list[str]:
    """The words of a text that the embedded model was never taught."""
    return [word for word in words_of(text) if word not in _KNOWN]


def nearest(word: str) -> str:
    """What it was taught that is spelled nearly so; where nothing is, of what kind its words are."""
    near = difflib.get_close_matches(word, [*words.OBJECTS, *filter(None, words.CATEGORIES), *words.STYLES], 3, 0.65)
    return " or ".join(near) if near else f"an object ({', '.join(list(words.OBJECTS)[:4])}, …), a category or a style"


def subject(text: str, option: str = "concept") -> Subject:
    """Raises UserError for a word that the embedded model was never taught, naming the nearest it was."""
    found = words_of(text)
    for word in unknown_words(text):
        raise UserError(
            f"{option}='{text}': the emoji model knows no '{word}'; it knows {nearest(word)} (all: esd/emoji/words.py; "
            "another model's name goes into model=…)"
        )
    named = set(_names(found))
    objects = {name for name in named if name in words.OBJECTS}
    for name in named:
        objects |= set(words.CATEGORIES.get(name, ()))
    return Subject(frozenset(objects), frozenset(name for name in named if name in words.STYLES))


def names_anything(text: str) -> bool:
    """Whether it names an object or a style that the judge can look for."""
    return not unknown_words(text) and subject(text) != Subject()


def _names(found: list[str]) -> Iterator[str]:
    """What is named in these words, also in other words and languages; of overlapping phrases the longest."""
    known, at = words.names(), 0
    while at < len(found):
        lengths = [n for n in (4, 3, 2, 1) if " ".join(found[at : at + n]) in known and at + n <= len(found)]
        if lengths:
            yield known[" ".join(found[at : at + lengths[0]])]
        at += lengths[0] if lengths else 1
