"""Concepts, and the synthetic dataset: what each training example is about, as a pure function of (seed, index)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from esd import UserError


@dataclass(frozen=True)
class Concept:
    """One text to erase.

    text:       c, what must go
    erase_from: f, what c is taken out of; "" is the null prompt ∅, the paper's case
    eta:        η ≥ 0, how far the student is pushed away from c, in the paper's sense (ESD, section 4.1). The authors'
                diffusers script without --erase_from subtracts from ε_c: its --negative_guidance 2 is η = 1 here, and
                its SDXL default of 1 pushes nowhere.
    weight:     of its examples in the loss

    A prompt to preserve is the concept that is erased from itself by nothing: Concept(p, erase_from=p, eta=0).
    """

    text: str
    erase_from: str = ""
    eta: float = 1.0
    weight: float = 1.0

    @property
    def preserves(self) -> bool:
        return self.eta == 0 and self.erase_from == self.text


def pair_up(texts: list[str], erase_from: list[str], eta: float) -> list[Concept]:
    """Concepts with what each is erased from: one for each, or one for all. Raises ValueError on other lengths."""
    sources = erase_from * len(texts) if len(erase_from) == 1 else erase_from
    return [Concept(text, source, eta) for text, source in zip(texts, sources, strict=True)]


def preserved(prompts: list[str], weight: float, erased: Iterable[Concept] = ()) -> list[Concept]:
    """Prompts whose predictions stay what the frozen model's are. Raises UserError for one that is erased."""
    if both := {prompt.lower() for prompt in prompts} & {concept.text.lower() for concept in erased}:
        raise UserError(f"preserve holds '{min(both)}', which concept erases: take it out of one of them")
    return [Concept(prompt, erase_from=prompt, eta=0.0, weight=weight) for prompt in prompts]


class Draw(NamedTuple):
    """One batch of examples, each entry (B,) int64."""

    concept: Tensor  # which concept
    template: Tensor  # which phrasing of it
    position: Tensor  # where in the schedule x_t stands: 0 is pure noise, `timesteps[position]` its time step
    noise: Tensor  # the seed of the noise its walk starts from


class Draws(IterableDataset):
    """Batches of draws without end, each entry a pure function of (seed, index): the same on any number of devices,
    and after a resume (`start`, in steps).

    concepts:  how many are erased; each example draws one of them
    preserved: how many are preserved; they follow the erased ones in the numbering
    batch:     examples that erase, on one device; preserved_batch: examples that preserve, beside them
    positions: N, the length of the schedule
    walks:     None: every example has its own noise. K: the noise is one of K (a finite set, which can be kept)
    nearest:   of those that are preserved, by their numbers: half of the examples that preserve, by chance, draw among these
    staggered: False: positions are uniform. True: slot b of the batch walks: its position moves on by one each step
               and wraps around to a fresh draw, the slots spread evenly over the schedule
    stride:    positions that a walk of what is preserved moves on by, so that more prompts have a turn
    rank, world: this device's place; with them a batch is the rank's slice of the batch of one large device
    """

    def __init__(
        self, *, concepts: int, templates: int, positions: int, batch: int, seed: int, preserved: int = 0,
        preserved_batch: int = 0, nearest: Sequence[int] = (), walks: int | None = None, staggered: bool = False,
        stride: int = 1, rank: int = 0, world: int = 1, start: int = 0,
    ):  # fmt: skip
        self.concepts, self.templates, self.positions = concepts, templates, positions
        self.preserved, self.batch, self.preserved_batch, self.nearest = preserved, batch, preserved_batch, nearest
        self.walks, self.staggered, self.stride = walks, staggered, stride
        self.seed, self.rank, self.world, self.start = seed, rank, world, start

    def entry(self, stream: int, index: int, among: Sequence[int]) -> tuple[int, int, int, int]:
        """(concept, template, position, noise) of example `index` of a stream: 0 erases, 1 preserves."""
        rng = np.random.default_rng([self.seed, stream, index])
        among = self.nearest if stream == 1 and self.nearest and rng.integers(2) else among
        concept = among[rng.integers(len(among))]
        template, position = rng.integers(self.templates), rng.integers(self.positions)
        noise = rng.integers(2**62) if self.walks is None else rng.integers(self.walks)
        return concept, template if stream == 0 else 0, position, noise

    def row(self, stream: int, step: int, slot: int, slots: int, among: Sequence[int]) -> tuple[int, int, int, int]:
        if not self.staggered:
            return self.entry(stream, step * slots + slot, among)
        stride = self.stride if stream == 1 else 1
        stops = -(-self.positions // stride)  # of a walk
        walk, stop = divmod(step + slot * stops // slots, stops)  # the steps since the slot's first walk began
        concept, template, _, noise = self.entry(stream, walk * slots + slot, among)
        return concept, template, stop * stride, noise

    def at(self, step: int) -> Draw:
        """The batch of this step, on this rank."""
        rows = []
        for stream, size, among in (
            (0, self.batch, range(self.concepts)),
            (1, self.preserved_batch, range(self.concepts, self.concepts + self.preserved)),
        ):
            first, slots = self.rank * size, self.world * size
            rows += [self.row(stream, step, first + b, slots, among) for b in range(size)]
        return Draw(*torch.tensor(rows, dtype=torch.int64).unbind(1))  # each (B,)

    def __iter__(self) -> Iterator[Draw]:
        step = self.start
        while True:
            yield self.at(step)
            step += 1
