"""The protocol of the embedded model: is the concept still seen, are the other objects and styles still right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esd.emoji import words
from esd.emoji.subject import Subject, subject
from esd.metrics.counts import counted
from esd.metrics.emoji import Seen
from esd.sampling import sample

NAME, VERSION = "emoji", 1
STEPS, GUIDANCE = 30, 3.0
GROUPS = {
    "erased": "concept seen, asked by name",
    "erased_styled": "concept seen, asked in a style",
    "kept": "other objects right",
    "kept_styles": "other styles right",
}


@dataclass(frozen=True)
class Row:
    """One picture to make and to judge: a hit is its subject being seen. `seed` gives its noise."""

    group: str
    prompt: str
    subject: Subject
    seed: int


def concept_prompts(text: str) -> tuple[list[str], list[str]]:
    """The ways to ask for a concept: by name, and in a style (for a style: of some object)."""
    bare = text.lower().strip()
    about = subject(bare)
    if bare in words.OBJECTS or bare in words.CATEGORIES:
        return words.object_phrases(bare), [words.styled_phrases(bare, style)[0] for style in words.STYLES]
    if about.styles and not about.objects:
        styled = [words.styled_phrases(noun, style)[0] for style in sorted(about.styles) for noun in list(words.OBJECTS)[::7]]
        return [phrase for style in sorted(about.styles) for phrase in words.style_phrases(style)], styled
    return [bare], []


def rows(concepts: Sequence[str], pictures: int, kept: int, seed: int = 0) -> list[Row]:
    """The pictures of the protocol: about `pictures` of each concept by name and as many in styles, and `kept` of each
    object that is not erased (and, where a style is erased, of objects in the other styles)."""
    made, gone = [], [subject(text) for text in concepts]
    for text, about in zip(concepts, gone, strict=True):
        for group, prompts in zip(("erased", "erased_styled"), concept_prompts(text), strict=True):
            for prompt in prompts:
                made += [Row(group, prompt, about, seed + n) for n in range(-(-pictures // len(prompts)))]
    lost = {noun for about in gone if not about.styles for noun in about.objects}
    lost_styles = {style for about in gone if not about.objects for style in about.styles}
    left = [noun for noun in words.OBJECTS if noun not in lost]
    for noun in left:
        made += [Row("kept", words.a(noun), Subject(frozenset([noun])), seed + n) for n in range(kept)]
    styles = [style for style in words.STYLES if style not in lost_styles]
    held_out = set(words.held_out_pairs())
    for i, noun in enumerate(left if styles else []):
        style = styles[i % len(styles)]
        if (noun, style) not in held_out:
            made.append(Row("kept_styles", words.styled_phrases(noun, style)[0], Subject(styles=frozenset([style])), seed))
    return made


def others(concepts: Sequence[str]) -> list[str]:
    """The objects that these concepts do not name, as prompts: what is to be kept."""
    lost = {noun for text in concepts if not (about := subject(text)).styles for noun in about.objects}
    return [words.a(noun) for noun in words.OBJECTS if noun not in lost]


def draw(model, denoiser: nn.Module, asked: Sequence[Row], done: Callable[[int], None] = lambda n: None) -> Tensor:
    """The rows' pictures: (n, 3, 64, 64)."""
    seeds = [row.seed for row in asked]
    return sample(model, denoiser, [r.prompt for r in asked], seeds, steps=STEPS, guidance=GUIDANCE, done=done)


@torch.no_grad()
def judged(asked: Sequence[Row], pictures: Tensor) -> dict[str, dict]:
    """Counts for each group of rows."""
    metrics: dict[str, Seen] = {}
    judge = Seen().judge
    for row, picture in zip(asked, pictures, strict=True):
        metrics.setdefault(row.group, Seen(judge))
    for group, metric in metrics.items():
        index = [i for i, row in enumerate(asked) if row.group == group]
        metric.update(pictures[index], [asked[i].subject for i in index])
    return {group: counted(int(metric.hits), int(metric.of)) for group, metric in metrics.items()}
