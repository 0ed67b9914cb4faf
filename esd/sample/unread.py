"""What a model does not take in of its prompts: what is longer than its text encoders hold, and words it was never taught."""

from __future__ import annotations

from collections.abc import Sequence

from esd.emoji.subject import nearest, unknown_words
from esd.models.family import Model
from esd.models.lengths import named, unread

SHOWN = 3  # prompts that are named; the others are counted


def lines_about(model: Model, prompts: Sequence[str], embedded: bool) -> list[str]:
    """What is to be said of these prompts before they are used, in lines; none where all is taken in.

    embedded: whether this is the model that ships with the package, whose words are known.
    """
    cut = {prompt: rest for prompt in dict.fromkeys(prompts) if (rest := unread(model.base, prompt))}
    lines = [
        f"{named(prompt)} is longer than {model.name}'s text encoder holds: {named(rest)} is not read"
        for prompt, rest in list(cut.items())[:SHOWN]
    ]
    if len(cut) > SHOWN:
        lines.append(f"and so of {len(cut) - SHOWN} more prompts")
    unknown = dict.fromkeys(word for prompt in prompts for word in unknown_words(prompt)) if embedded else ()
    if unknown:
        about = ", ".join(f"'{word}' (it knows {nearest(word)})" for word in list(unknown)[:SHOWN])
        more = f" and {len(unknown) - SHOWN} more words" if len(unknown) > SHOWN else ""
        lines.append(f"the emoji model was never taught {about}{more}: what it draws for them means nothing")
    return lines
