"""The bare training loop that the benchmarks time, with each source of x_t."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from esd.command.entry import fast_precision
from esd.erasing import layers
from esd.erasing.cache import Cache
from esd.erasing.concepts import Concept, Draw, Draws, preserved
from esd.erasing.erasure import Erasure
from esd.erasing.lora import lora_student_of
from esd.erasing.projection import Projection
from esd.erasing.prompts import PromptTable
from esd.erasing.trajectories import Denoisers, Pool, StudentWalks

N = 50  # positions of the schedule
ESD_X = {"name": "esd-x", "include": [r"\.attn2\."], "modules": ["Linear"]}
KV = {"name": "kv", "include": [r"\.attn2\.to_[kv]\."], "modules": ["Linear"]}
ESD_U = {"name": "esd-u", "exclude": [r"\.attn2\."], "modules": ["Linear", "Conv2d"]}
SOURCES = {  # name: (source, walker)
    "student": ("student", ""),
    "pool, frozen walks": ("pool", "frozen"),
    "pool, student walks": ("pool", "student"),
    "cache": ("cache", ""),
}
DEFAULT = "pool, student walks"  # what a run takes unless told otherwise
BATCH, LR = 10, 2e-4
ALONE = "student, batch 1"
CASES = {ALONE: ("student", 1), **{name: (name, BATCH) for name in SOURCES}}  # name: (source, batch)


def store_in(folder: Path, walks: int = 20) -> Cache:
    return Cache(walks=walks, folder=folder)


def mixed(precision: str | None = None) -> contextlib.AbstractContextManager:
    """The precision of training, here."""
    return torch.autocast("cpu", torch.bfloat16, enabled=(precision or fast_precision()) == "bf16-mixed")


def even(draws: Iterator[Draw], batch: int) -> Iterator[Draw]:
    """The same draws at positions 2, 7, 12, …, 47, 2, …: any ten in a row cost what many do on average, since the cost of a
    fresh walk is two forwards for each position."""
    for step, draw in enumerate(draws):
        index = torch.arange(step * batch, (step + 1) * batch)
        yield draw._replace(position=(5 * index + 2) % N)


class Loop:
    """A bare training loop of one source: no Lightning, no logger. What is timed and counted."""

    def __init__(
        self, model, concept: str, source: str, batch: int, store: Cache, *, seed: int = 0, lr: float = LR,
        rule: dict = ESD_X, precision: str | None = None, spread: bool = True, rank: int | None = None,
        templates: Sequence[str] = ("{}",), preserve: Sequence[str] = (), spare: float = 0.0, spared: Sequence[str] = (),
    ):  # fmt: skip
        """rank: of a LoRA, or None for whole weights. preserve: prompts, of which as many examples preserve as erase. spare: of
        these prompts, as the option has it."""
        self.model, self.batch, self.precision = model, batch, precision
        trained = layers.select_parameters(model.denoiser, layers.LayerRule(**rule))
        if rank is None:
            student = layers.student_of(model.denoiser, trained)
        else:
            student, trained = lora_student_of(model.denoiser, trained, rank, rank, seed)
        sampler = model.sampler(N)
        prompts = PromptTable(model, [Concept(concept), *preserved(list(preserve), 1.0)], list(templates))
        parts, (kind, walker) = (model, sampler, prompts, 3.0, model.denoiser, student), SOURCES[source]
        chosen = {"student": StudentWalks(), "pool": Pool(walker or "frozen"), "cache": copy.copy(store)}[kind]
        with mixed(precision):
            trajectories = chosen.begin(Denoisers(*parts))
        projection = Projection(model, student, [concept], spared, spare) if spare else None
        self.module = Erasure(model, student, trained, prompts, sampler, trajectories, None, None, projection)
        self.module.log_loss = lambda *args: None  # no trainer to report to
        options = {"concepts": 1, "templates": len(templates), "positions": N, "batch": batch, "seed": seed}
        options |= {"preserved": len(preserve), "preserved_batch": batch if preserve else 0}
        of_source = {"staggered": trajectories.staggered, "stride": trajectories.preserving_stride}
        self.dataset = Draws(**options, walks=trajectories.walks, **of_source)
        self.draws = even(iter(self.dataset), batch) if spread and not trajectories.staggered else iter(self.dataset)
        self.optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr)

    def run(self, steps: int) -> float:
        """So many steps; the seconds they took."""
        started = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad()
            with mixed(self.precision):
                loss = self.module.training_step(next(self.draws), 0)
            loss.backward()
            if self.module.projection is not None:
                self.module.projection.before()
            self.optimizer.step()
            if self.module.projection is not None:
                self.module.projection.after()
        return time.perf_counter() - started
