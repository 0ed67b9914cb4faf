"""The rows of an attack's table: what is attacked beside the edit, so that a rate says something.

edit    the edit, asked for the erased concept
never   the control: what the same attack, with the same prompt and noises, makes of a model that never learnt the concept.
        A twin where one is given; on the embedded model, without one, the edit itself with pictures of an emoji that it
        was never shown. What is seen here was taught, not found.
check   the attack where it must succeed: on the base model, or, if it names the concept, on a third of the edit
kept    another object on the edit: what does not come back here was damaged, not erased
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from esd.attack.target import Attack, Target
from esd.attack.tries import CHECK, EDIT, KEPT, NEVER
from esd.erasing.edit import Edit
from esd.erasing.layers import student_of
from esd.erasing.pictures import picture_files, read_pictures
from esd.models.family import Model
from esd.protocols.everyday import everyday_without, mentions
from esd.sample.sampling import sample

WEAK = 1 / 3  # of the way from the base model to the edit
PICTURES = 32  # of the concept, that an attacker has


@dataclass
class Row:
    """A target, and whether its pictures show what was looked for: sees((n, 3, H, W)) → (n,) bool."""

    target: Target
    sees: Callable[[Tensor], Tensor]
    about: str  # what is looked for


def edited(model: Model, edit: Edit, strength: float = 1.0) -> nn.Module:
    """A copy of the base denoiser that owns only what the edit changes: W₀ + strength·(W − W₀)."""
    student = student_of(model.denoiser, edit.tensors)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name in edit.tensors:
                parameter.copy_(torch.lerp(parameter.float(), edit.tensors[name].to(parameter.device).float(), strength))
    return student.requires_grad_(False)


class Rows:
    """Builds the rows of one concept of one edit; pictures and judges come from the world that the model is of."""

    def __init__(
        self, model: Model, edit: Edit, concept: str, world, twin: Model | None, look: dict, gone: Sequence[str] = ()
    ):  # fmt: skip
        """world: EmojiWorld, or RealWorld; twin: a model that never learnt the concept; look: steps, guidance and sampler of
        pictures, as sample() is told; gone: what else the edit erased."""
        self.gone = [concept, *gone]
        self.model, self.edit, self.concept, self.world, self.twin = model, edit, concept, world, twin
        self.control = "a twin" if twin else world.CONTROL  # what NEVER is
        self.look = look
        self.denoisers: dict[float, nn.Module] = {}

    def denoiser(self, strength: float = 1.0) -> nn.Module:
        if strength not in self.denoisers:
            self.denoisers[strength] = edited(self.model, self.edit, strength)
        return self.denoisers[strength]

    def alike(self, row: str, attack: Attack) -> bool:
        """Whether this row is the same for every edit of the concept: nothing of the edit is in it."""
        return (row == NEVER and self.twin is not None) or (row == CHECK and attack.check == "base")

    def has(self, row: str, attack: Attack) -> bool:
        """Whether there is such a row: an attack may have no check, a world no control and no kept object."""
        if row == NEVER:
            return self.twin is not None or self.world.CONTROL != "none"
        return {CHECK: bool(attack.check), KEPT: self.world.kept(self.gone) is not None}.get(row, True)

    def build(self, row: str, attack: Attack, seed: int) -> Row:
        """A row that it has."""
        pictured = "pictures" in attack.needs or row == NEVER
        if row == EDIT:
            return self.of(self.concept, self.denoiser(), pictured)
        if row == CHECK:
            denoiser = self.model.denoiser if attack.check == "base" else self.denoiser(WEAK)
            return self.of(self.concept, denoiser, pictured)
        if row == KEPT:
            return self.of(self.world.kept(self.gone), self.denoiser(), pictured)
        if self.twin is not None:
            return self.of(self.concept, self.twin.denoiser, pictured, self.twin)
        return self.world.never_shown(self.of(self.concept, self.denoiser(), False), seed)

    def of(self, concept: str, denoiser: nn.Module, pictured: bool, model: Model | None = None) -> Row:
        """model: whose denoiser it is, with its text encoder; None: the base model's."""
        prompt = self.world.prompt(concept)
        target = Target(
            model or self.model, denoiser, self.model, prompt, frozenset(concept.lower().split()),
            self.world.latents(concept) if pictured else None, self.world.others(concept), self.world.synonyms(concept),
            self.look["guidance"], self.look["steps"], self.look["sampler"],
        )  # fmt: skip
        return Row(target, lambda pictures: self.world.sees(pictures, concept), concept)


class EmojiWorld:
    """The embedded model: pictures from its art, its own judge, and emoji that it was never shown."""

    CONTROL = "emoji that the model was never shown"

    def __init__(self, model: Model):
        from esd.emoji.judge import load_judge

        self.model, self.judge, self._latents = model, load_judge(), {}

    def prompt(self, concept: str) -> str:
        from esd.emoji import words

        named = concept.lower().strip()
        return words.with_article(named) if named in words.OBJECTS or named in words.CATEGORIES else concept

    def kept(self, gone: Sequence[str]) -> str | None:
        """An object that none of these texts names, the same for all attacks on this edit; None where all are gone."""
        from esd.emoji import words
        from esd.emoji.subject import subject

        named = frozenset().union(*(subject(text).objects for text in gone))
        return next((noun for noun in ("owl", "guitar", "pizza", *words.OBJECTS) if noun not in named), None)

    def others(self, concept: str) -> list[str]:
        from esd.protocols.emoji import other_objects

        return other_objects([concept])

    def synonyms(self, concept: str) -> list[str]:
        """The other words and the translations that the model was taught for it."""
        from esd.emoji import words

        name = words.names().get(concept.lower().strip())
        return [words.with_article(way) for way in words.ways_to_say(name)[1:]] if name else []

    def twin_never_learnt(self, concept: str) -> bool:
        from esd.emoji import words
        from esd.emoji.subject import subject

        objects = subject(concept).objects
        return bool(objects) and objects <= set(words.STUDIED)

    def latents(self, concept: str) -> Tensor:
        """Of augmented drawings of the concept: (PICTURES, C, h, w)."""
        from esd.emoji import art, words
        from esd.emoji.subject import subject

        about = subject(concept)
        drawn, noun, style = art.objects()
        nouns, styles = list(words.OBJECTS), list(words.STYLES)
        fits = [
            (not about.objects or nouns[n] in about.objects) and (not about.styles or styles[s] in about.styles)
            for n, s in zip(noun.tolist(), style.tolist(), strict=True)
        ]
        return self._encoded(concept, drawn[torch.tensor(fits)])

    def _encoded(self, name: str, drawings: Tensor) -> Tensor:
        from esd.attack.never_shown import augmented

        if name not in self._latents:
            order = torch.randperm(len(drawings), generator=torch.Generator().manual_seed(0))
            picked = drawings[order.repeat(-(-PICTURES // len(order)))[:PICTURES]]
            self._latents[name] = self.model.latents(augmented(picked, 1, 11)).cpu()
        return self._latents[name]

    def sees(self, pictures: Tensor, concept: str) -> Tensor:
        from esd.emoji.subject import subject
        from esd.metrics.emoji import shows_subject

        with torch.no_grad():
            objects, styles = self.judge(pictures)
        return shows_subject(objects.argmax(1), styles.argmax(1), [subject(concept)] * len(pictures))

    def never_shown(self, row: Row, seed: int) -> Row:
        from esd.attack import never_shown

        name, judge = never_shown.for_seed(seed), never_shown.shipped()
        target = copy.copy(row.target)
        target.latents, target.base_knows = self._encoded(f"never shown: {name}", never_shown.drawings(name)), False
        return Row(target, lambda pictures: judge.sees(pictures, name), name)

    def record(self) -> dict:
        """What a verdict depends on beside the pictures that are judged."""
        from esd.attack import never_shown

        return {"judge": {"judge": "emoji", "never shown": never_shown.record()}}


class RealWorld:
    """Any other model: pictures from a folder, or drawn by the base model; a judge that is given.

    judge: sees(pictures (n, 3, H, W) in [0, 1], text) → (n,) bool, and record() → what its verdicts depend on
    """

    CONTROL = "none"

    def __init__(self, model: Model, images: Path | None, judge, kept: Sequence[str], look: dict):
        """kept: prompts of what else the edit may be attacked for: the first that names nothing of what it erased."""
        self.model, self.images, self.judge, self.kept_prompts = model, images, judge, kept
        self.look, self._latents, self.given = look, {}, None
        if images is not None:  # read now: one that cannot be read is told before an attack begins
            side = model.latent_shape[-1] * model.base.vae_scale_factor
            self.given = read_pictures(picture_files(images), side)

    def prompt(self, concept: str) -> str:
        return concept

    def kept(self, gone: Sequence[str]) -> str | None:
        return next((prompt for prompt in self.kept_prompts if not mentions(prompt, gone)), None)

    def others(self, concept: str) -> list[str]:
        return everyday_without([concept])[:40]

    def latents(self, concept: str) -> Tensor:
        if concept not in self._latents:
            drawn = self.given is None or concept in self.kept_prompts
            seeds = range(1_000, 1_000 + PICTURES // 2)  # apart from the noises that are judged
            pictures = (
                sample(self.model, self.model.denoiser, [concept] * len(seeds), seeds, **self.look) if drawn else self.given
            )
            device = next(self.model.denoiser.parameters()).device
            self._latents[concept] = torch.cat([self.model.latents(part.to(device)).cpu() for part in pictures.split(4)])
        return self._latents[concept]

    def sees(self, pictures: Tensor, concept: str) -> Tensor:
        return self.judge.sees(pictures, concept)

    def synonyms(self, concept: str) -> list[str]:
        """Nobody knows which this model was taught: those that are given with attack.words.words."""
        return []

    def twin_never_learnt(self, concept: str) -> bool:
        """There is no twin but one that is given."""
        return False

    def record(self) -> dict:
        """What a try depends on beside the models: the judge, and the pictures that are given."""
        files = [] if self.images is None else picture_files(self.images)
        images = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        return {"judge": self.judge.record(), "images": images, "kept": list(self.kept_prompts)}


def noises(count: int) -> Sequence[int]:
    """The seeds of the noises that are judged: the same for every row, attack and seed, so that rows are paired."""
    return range(count)
