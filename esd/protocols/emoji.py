"""The protocol of the embedded model: is the concept still seen, are the other objects and styles still right."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from esd.emoji import words
from esd.emoji.judge import FILES, Judge, load_judge
from esd.emoji.subject import Subject, subject
from esd.metrics.counts import mean_figure, rate_figure
from esd.metrics.emoji import Seen
from esd.metrics.paired import PairedDistance
from esd.protocols import Batches, Row
from esd.sample.sampling import sample

NAME, VERSION = "emoji", 2  # 2: every picture from a noise of its own
STEPS, GUIDANCE = 30, 3.0
GROUPS = {
    "erased": "concept seen, asked by name",
    "erased_styled": "concept seen, asked in a style",
    "kept_source": "the rest of what it was erased from",
    "kept": "other objects right",
    "kept_styles": "other styles right",
}
DISTANCES = {
    "kept_distance": "other objects moved (judge's features)",
    "kept_pixels": "other objects moved (pixels)",
}


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


def what_is_left(source: Subject, gone: Subject) -> Subject:
    """What is left of a subject when another is taken out of it: "weapon" without "bomb", a cat in the other styles."""
    styles = frozenset(words.STYLES) - gone.styles if gone.styles else source.styles
    return Subject(source.objects - gone.objects or source.objects, styles)


def rows(
    concepts: Sequence[str], pictures: int, kept: int, seed: int = 0, guidance: float = GUIDANCE, erase_from: Sequence[str] = ()
) -> list[Row]:
    """The pictures of the protocol: about `pictures` of each concept by name and as many in styles, and `kept` of each
    object that is not erased (and, where a style is erased, of objects in the other styles).

    A concept that is erased from another text is looked for where that text is asked for, and so is what must be left.
    Every picture has a noise of its own: else the phrasings of one text would show the same picture again.
    """
    made, gone = [], [subject(text) for text in concepts]
    noises = itertools.count(100_000 * seed)

    def ask(prompt: str, n: int, **groups: Subject) -> None:
        for noise in itertools.islice(noises, n):
            made.extend(Row(group, prompt, noise, about, guidance) for group, about in groups.items())

    for text, about, source in zip(concepts, gone, erase_from or [""] * len(concepts), strict=True):
        if source:
            for prompt in (prompts := concept_prompts(source)[0]):
                ask(prompt, -(-pictures // len(prompts)), erased=about, kept_source=what_is_left(subject(source), about))
            continue
        for group, prompts in zip(("erased", "erased_styled"), concept_prompts(text), strict=True):
            for prompt in prompts:
                ask(prompt, -(-pictures // len(prompts)), **{group: about})
    lost = {noun for about in gone if not about.styles for noun in about.objects}
    lost_styles = {style for about in gone if not about.objects for style in about.styles}
    left = [noun for noun in words.OBJECTS if noun not in lost]
    for noun in left:
        ask(words.with_article(noun), kept, kept=Subject(frozenset([noun])))
    styles = [style for style in words.STYLES if style not in lost_styles]
    held_out = set(words.held_out_pairs())
    for i, noun in enumerate(left if styles else []):
        style = styles[i % len(styles)]
        if (noun, style) not in held_out:
            ask(words.styled_phrases(noun, style)[0], 1, kept_styles=Subject(styles=frozenset([style])))
    return made


def other_objects(concepts: Sequence[str]) -> list[str]:
    """The objects that these concepts do not name, as prompts: what is to be kept."""
    lost = {noun for text in concepts if not (about := subject(text)).styles for noun in about.objects}
    return [words.with_article(noun) for noun in words.OBJECTS if noun not in lost]


def draw(model, denoiser: nn.Module, asked: Sequence[Row], done: Callable[[int], None] = lambda n: None) -> Tensor:
    """The rows' pictures (n, 3, 64, 64), in steps of 1/255 as in a file."""
    seeds = [row.seed for row in asked]
    drawn = sample(model, denoiser, [r.prompt for r in asked], seeds, steps=STEPS, guidance=GUIDANCE, done=done)
    return drawn.mul(255).round() / 255


def measure_batches(batches: Batches, judge: Judge) -> dict[str, dict]:
    """Counts for each group of rows, of the kept objects also for each; and how far those moved from the base's."""
    seen: dict[str, Seen] = {}
    each: dict[str, Seen] = {}
    features, pixels = PairedDistance(judge.features), PairedDistance()

    for asked, images, base in batches:
        for group in dict.fromkeys(row.group for row in asked):
            index = [i for i, row in enumerate(asked) if row.group == group]
            seen.setdefault(group, Seen(judge)).update(images[index], [asked[i].subject for i in index])
            if group != "kept":
                continue
            features.update(images[index], base[index])
            pixels.update(images[index], base[index])
            for prompt in dict.fromkeys(asked[i].prompt for i in index):
                own = [i for i in index if asked[i].prompt == prompt]
                each.setdefault(prompt, Seen(judge)).update(images[own], [asked[i].subject for i in own])
    figures = {group: rate_figure(int(metric.hits), int(metric.of)) for group, metric in seen.items()}
    if each:
        figures["kept"]["each"] = {prompt: [int(metric.hits), int(metric.of)] for prompt, metric in each.items()}
        figures["kept_distance"] = mean_figure(features.distances().tolist())
        figures["kept_pixels"] = mean_figure(pixels.distances().tolist())
    return figures


def measure_pictures(asked: Sequence[Row], pictures: Tensor, base: Tensor | None = None) -> dict[str, dict]:
    """The figures of pictures (n, 3, 64, 64) beside the base model's; of the base model itself where none are given."""
    return measure_batches([(asked, pictures, pictures if base is None else base)], load_judge())


class Emoji:
    """The protocol for `python -m esd.evaluate`; the end of a training run takes its short form from here too."""

    name, version, concept_needed, side = NAME, VERSION, True, 64
    labels = GROUPS | DISTANCES
    reference: dict = {}

    def __init__(self, pictures: int, kept: int, guidance: float, seed: int):
        self.pictures, self.kept, self.guidance, self.seed = pictures, kept, guidance, seed

    def ready(self, device: torch.device) -> None:
        self.judge = load_judge().to(device)

    def record(self) -> dict:
        return {"judge": "emoji", "weights_sha256": hashlib.sha256((FILES / "judge.safetensors").read_bytes()).hexdigest()}

    def rows(self, concepts: Sequence[str], erase_from: Sequence[str] = ()) -> list[Row]:
        return rows(concepts, self.pictures, self.kept, self.seed, self.guidance, erase_from)

    def measure(self, batches: Batches) -> dict[str, dict]:
        return measure_batches(batches, self.judge)
