"""The source of x_t that costs least: the frozen model's walks, rolled out once (walk_store.py) and looked up."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch

from esd.erasing.checks import require_at_least, require_one_of
from esd.erasing.concepts import Draw
from esd.erasing.prompts import PromptTable
from esd.erasing.trajectories import Denoisers, Examples, Trajectories
from esd.erasing.walk_store import WalkStore

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def concept_template_pairs(prompts: PromptTable) -> list[tuple[int, int]]:
    """(concept, template) of all that is asked for; preserved prompts are taken as they stand."""
    phrasings = len(prompts.templates)
    return [(k, j) for k, concept in enumerate(prompts.concepts) for j in range(1 if concept.preserves else phrasings)]


@dataclass(eq=False)
class Cache(Trajectories):
    """Walks of the frozen model from disk, of which a draw's noise is the number: no teacher in memory while training, and
    an example costs the student alone.

    walks:  for each concept and phrasing
    seed:   of their noise: not the run's seed, so that runs with other seeds share them
    dtype:  that they are kept in: float16, bfloat16 or float32
    chunk:  walks rolled out at once, and kept if the roll-out is interrupted; None: as many as AT_ONCE says
    folder, limit: where they are, and its size in GB
    """

    name: ClassVar[str] = "cache"
    AT_ONCE: ClassVar[int] = 32 * 16 * 16  # a latent's places: 32 walks of the embedded model, 2 at 512 pixels, 1 at 1024

    walks: int = 20
    seed: int = 0
    dtype: str = "float16"
    chunk: int | None = None
    folder: str = field(default_factory=lambda: os.environ.get("ESD_CACHE", "outputs/cache"))
    limit: float = 20

    def __post_init__(self):
        require_at_least(vars(self), "trajectories.", walks=1, seed=0, limit=0.0)
        if self.chunk is not None:
            require_at_least(vars(self), "trajectories.", chunk=1)
        require_one_of(self.dtype, "trajectories.dtype", DTYPES)

    def begin(self, denoisers: Denoisers, advance: Callable[[int, int], None] = lambda n, total: None) -> Self:
        """Roll out what the folder does not hold. The teacher then goes to the CPU, and is not needed any more: what the
        student shares with it goes back to the device with the student."""
        super().begin(denoisers, advance)
        self.teacher = None
        at_once = self.at_once(denoisers)
        store = WalkStore(self.folder, self.walks, self.seed, DTYPES[self.dtype], at_once, self.limit)
        pairs = concept_template_pairs(denoisers.prompts)
        total = len(pairs) * self.walks * len(denoisers.sampler)
        found = {pair: store.get(denoisers, *pair, lambda n: advance(n, total)) for pair in pairs}
        denoisers.teacher.cpu()
        self.kept = [  # of concept k in phrasing j the tensors (K, N, C, h, w), memory-mapped
            [found[k, j if (k, j) in found else 0] for j in range(len(denoisers.prompts.templates))]
            for k in range(len(denoisers.prompts.concepts))
        ]
        return self

    def at_once(self, denoisers: Denoisers) -> int:
        """How many walks are rolled out at once."""
        return self.chunk or max(1, self.AT_ONCE // math.prod(denoisers.model.latent_shape[1:]))

    def forwards(self, positions: int) -> float:
        return 0

    def roll_out(self, denoisers: Denoisers) -> tuple[float, int]:
        at_once = min(self.at_once(denoisers), self.walks)
        stops = len(denoisers.sampler) * self.walks * len(concept_template_pairs(denoisers.prompts))
        return stops / at_once, 2 * at_once

    def preparation(self, denoisers: Denoisers) -> str:
        count = self.walks * len(concept_template_pairs(denoisers.prompts))
        return f"{count} of {len(denoisers.sampler)} steps each, rolled out first where {self.folder} does not hold them"

    def examples(self, draw: Draw) -> Examples:
        device = draw.position.device
        k, j, w, i = (column.tolist() for column in (draw.concept, draw.template, draw.noise, draw.position))
        picked = [
            [tensor[walk, position].float() for tensor in self.kept[concept][template]]
            for concept, template, walk, position in zip(k, j, w, i, strict=True)
        ]
        return Examples(*(torch.stack(parts).to(device) for parts in zip(*picked, strict=True)))
