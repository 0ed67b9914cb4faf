"""The protocol of the embedded model: is the concept still seen, are its look-alikes, the other objects and styles right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from esd.emoji import words
from esd.emoji.judge import FILES, Judge, load_judge
from esd.emoji.lookalikes import nearest_first
from esd.emoji.subject import Subject, subject
from esd.metrics.counts import mean_figure, rate_figure
from esd.metrics.emoji import Seen
from esd.metrics.paired import PairedDistance
from esd.protocols import Batches, Row, each_once, noise_seed
from esd.protocols.base_pictures import BasePictures, made_with
from esd.sample.sampling import sample

# 2: every picture from a noise of its own. 3: look-alikes apart; a noise is a function of protocol, prompt and number alone.
# 4: drawn by a solver of second order. 5: in other words too, at guidance 4.
NAME, VERSION = "emoji", 5
STEPS, SAMPLER, GUIDANCE = 10, "dpm", 4.0  # conf/model/emoji.yaml has them for the other commands
LOOKALIKES = 3  # of each concept
SHORT = {"pictures": 24, "lookalike": 8, "kept": 1}  # what a run's end asks for
LONG = {"pictures": 96, "lookalike": 24, "kept": 4}  # and what evaluate=long asks for, as conf/protocol/emoji.yaml has it
GROUPS = {
    "erased": "concept seen, asked by name",
    "erased_styled": "concept seen, asked in a style",
    "erased_words": "concept seen, asked in other words",
    "kept_source": "the rest of what it was erased from",
    "lookalikes": "its look-alikes right",
    "kept": "other objects right",
    "kept_styles": "other styles right",
}
EACH = ("lookalikes", "kept", "kept_styles")  # the groups that are counted object by object, or style by style, too
DISTANCES = {
    "kept_distance": "other objects moved (judge's features)",
    "kept_pixels": "other objects moved (pixels)",
}


def concept_prompts(text: str) -> dict[str, list[str]]:
    """The ways to ask for a concept: by name, in a style (for a style: of some object), and in other words where it has any."""
    bare = text.lower().strip()
    about = subject(bare)
    name = words.names().get(bare, bare)
    others = [way for way in (name, *words.OTHER_WORDS.get(name, ())) if way != bare]
    asked = {"erased": [bare], "erased_styled": [], "erased_words": [words.with_article(way) for way in others]}
    if name in words.OBJECTS or name in words.CATEGORIES:
        asked["erased"] = words.object_phrases(bare)
        asked["erased_styled"] = [words.styled_phrases(bare, style)[0] for style in words.STYLES]
    elif about.styles and not about.objects:
        asked["erased"] = [phrase for style in sorted(about.styles) for phrase in words.style_phrases(style)]
        other = [way for style in sorted(about.styles) for way in words.OTHER_WORDS[style]]
        asked["erased_words"] = [words.style_phrases(way)[0] for way in other]
        objects = list(words.OBJECTS)[::7]
        asked["erased_styled"] = [words.styled_phrases(it, style)[0] for style in sorted(about.styles) for it in objects]
    return asked


def what_is_left(source: Subject, gone: Subject) -> Subject:
    """What is left of a subject when another is taken out of it: "weapon" without "bomb", a cat in the other styles."""
    styles = frozenset(words.STYLES) - gone.styles if gone.styles else source.styles
    return Subject(source.objects - gone.objects or source.objects, styles)


def lost_objects(gone: Sequence[Subject]) -> set[str]:
    """The objects that these take away whole, not in one style alone."""
    return {noun for about in gone if not about.styles for noun in about.objects}


def lookalikes(concepts: Sequence[str]) -> list[str]:
    """The three nearest objects of each concept, nearest first, without those that are erased themselves.

    Of an object in one style the object in the others is the first of them. A style has none.
    """
    gone = [subject(text) for text in concepts]
    left = [noun for noun in words.OBJECTS if noun not in lost_objects(gone)]
    near = [noun for about in gone if about.objects for noun in nearest_first(about.objects, left)[:LOOKALIKES]]
    return list(dict.fromkeys(near))


def far_off(concepts: Sequence[str]) -> list[str]:
    """The objects that are neither erased nor look-alikes, those that are least like what is erased first."""
    gone = [subject(text) for text in concepts]
    near, objects = lost_objects(gone).union(lookalikes(concepts)), {noun for about in gone for noun in about.objects}
    left = [noun for noun in words.OBJECTS if noun not in near]
    return nearest_first(objects, left)[::-1] if objects else left


def ask(prompt: str, n: int, seed: int = 0, guidance: float = GUIDANCE, **groups: Subject) -> list[Row]:
    """A prompt's first n pictures, counted in these groups. seed: for other noises altogether."""
    noises = f"{NAME} {VERSION} {seed}"
    return [
        Row(group, prompt, noise_seed(noises, prompt, number), about, guidance)
        for number in range(n)
        for group, about in groups.items()
    ]


def rows(
    concepts: Sequence[str], pictures: int, lookalike: int, kept: int, seed: int = 0, guidance: float = GUIDANCE,
    erase_from: Sequence[str] = (),
) -> list[Row]:  # fmt: skip
    """The pictures of the protocol: at least `pictures` of each concept by name, and as many in styles; `lookalike` of each of
    its look-alikes; `kept` of each object that is neither (and one of each in a style that is not erased).

    A concept that is erased from another text is looked for where that text is asked for, and so is what must be left.
    A prompt's n-th picture is the same in every list, and every picture of a list has a noise of its own.
    """
    made: list[Row] = []
    gone = [subject(text) for text in concepts]

    def add(prompt: str, n: int, **groups: Subject) -> None:
        made.extend(ask(prompt, n, seed, guidance, **groups))

    for text, about, source in zip(concepts, gone, erase_from or [""] * len(concepts), strict=True):
        if source:
            for prompt in (prompts := list(dict.fromkeys(concept_prompts(source)["erased"]))):
                add(prompt, -(-pictures // len(prompts)), erased=about, kept_source=what_is_left(subject(source), about))
            continue
        for group, prompts in concept_prompts(text).items():
            different = list(dict.fromkeys(prompts))  # "nudity" takes no article: two of its three phrasings are one
            for prompt in different:
                add(prompt, -(-pictures // len(different)), **{group: about})
    near, far = lookalikes(concepts), far_off(concepts)
    for noun in near:
        add(words.with_article(noun), lookalike, lookalikes=Subject(frozenset([noun])))
    for noun in far:
        add(words.with_article(noun), kept, kept=Subject(frozenset([noun])))
    lost_styles = {style for about in gone if not about.objects for style in about.styles}
    styles = [style for style in words.STYLES if style not in lost_styles]
    held_out = set(words.held_out_pairs())
    for i, noun in enumerate(words.OBJECTS if styles else ()):  # by its own place: the same for every concept
        style = styles[i % len(styles)]
        if noun in (*near, *far) and (noun, style) not in held_out:
            add(words.styled_phrases(noun, style)[0], 1, kept_styles=Subject(styles=frozenset([style])))
    return each_once(made)


def other_objects(concepts: Sequence[str]) -> list[str]:
    """The objects that these concepts do not name, as prompts: what is to be kept."""
    lost = lost_objects([subject(text) for text in concepts])
    return [words.with_article(noun) for noun in words.OBJECTS if noun not in lost]


def other_styles(concepts: Sequence[str]) -> list[str]:
    """The styles that these concepts do not name, as prompts: alone, and of every seventh object that is not erased whole."""
    gone = [subject(text) for text in concepts]
    styles = [style for style in words.STYLES if not any(style in about.styles for about in gone)]
    nouns = [noun for noun in words.OBJECTS if noun not in lost_objects(gone)][::7]
    return [
        prompt
        for style in styles
        for prompt in [*words.style_phrases(style), *(words.styled_phrases(n, style)[0] for n in nouns)]
    ]


def draw(model, denoiser: nn.Module, asked: Sequence[Row], done: Callable[[int], None] = lambda n: None) -> Tensor:
    """The rows' pictures (n, 3, 64, 64), in steps of 1/255 as in a file."""
    seeds = [row.seed for row in asked]
    look = {"steps": STEPS, "sampler": SAMPLER, "guidance": GUIDANCE}
    drawn = sample(model, denoiser, [row.prompt for row in asked], seeds, done=done, **look)
    return drawn.mul(255).round() / 255


def draw_base(model, asked: Sequence[Row], done: Callable[[int], None] = lambda n: None) -> Tensor:
    """The base model's pictures of the rows, from disk where they have been drawn before."""
    of = made_with(model, f"{NAME} {VERSION}", STEPS, next(model.denoiser.parameters()).device, SAMPLER)
    return BasePictures().get(asked, of, lambda rows: draw(model, model.denoiser, rows, done), done) / 255


def name_of(about: Subject) -> str:
    """The object, or the style, that a row of EACH asks for."""
    return next(iter(about.objects or about.styles))


def measure_batches(batches: Batches, judge: Judge) -> dict[str, dict]:
    """Counts for each group of rows, of EACH's also for each object or style; how far other objects moved from the base's."""
    seen: dict[str, Seen] = {}
    each: dict[str, dict[str, Seen]] = {}
    features, pixels = PairedDistance(judge.features), PairedDistance()

    for asked, images, base in batches:
        for group in dict.fromkeys(row.group for row in asked):
            index = [i for i, row in enumerate(asked) if row.group == group]
            seen.setdefault(group, Seen(judge)).update(images[index], [asked[i].subject for i in index])
            for name in dict.fromkeys(name_of(asked[i].subject) for i in index) if group in EACH else ():
                own = [i for i in index if name_of(asked[i].subject) == name]
                its = each.setdefault(group, {}).setdefault(name, Seen(judge))
                its.update(images[own], [asked[i].subject for i in own])
            if group == "kept":
                features.update(images[index], base[index])
                pixels.update(images[index], base[index])
    figures = {group: rate_figure(int(metric.hits), int(metric.of)) for group, metric in seen.items()}
    for group, its in each.items():
        figures[group]["each"] = {name: [int(metric.hits), int(metric.of)] for name, metric in its.items()}
    if "kept" in seen:
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

    def __init__(self, pictures: int, lookalike: int, kept: int, guidance: float, seed: int):
        self.pictures, self.lookalike, self.kept, self.guidance, self.seed = pictures, lookalike, kept, guidance, seed

    def ready(self, device: torch.device) -> None:
        self.judge = load_judge().to(device)

    def record(self) -> dict:
        return {"judge": "emoji", "weights_sha256": hashlib.sha256((FILES / "judge.safetensors").read_bytes()).hexdigest()}

    def rows(self, concepts: Sequence[str], erase_from: Sequence[str] = ()) -> list[Row]:
        return rows(concepts, self.pictures, self.lookalike, self.kept, self.seed, self.guidance, erase_from)

    def measure(self, batches: Batches) -> dict[str, dict]:
        return measure_batches(batches, self.judge)
