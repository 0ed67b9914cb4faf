"""Protocols: which pictures are made, who judges them, and how. conf/protocol/ names them, or a folder of one's own does
(python -m esd.evaluate --config-dir=mine protocol=…, where mine/protocol/….yaml says _target_: and the options).

A protocol is a class with
    name, version    that a figure is quoted with; the version moves whenever a figure could
    concept_needed   whether its rows depend on the erased concept
    side             the pixels a side that its judge needs; None: any
    labels           figure → what it says, for people
    reference        published figures of the same kind: {"source", "columns": {whose: {figure: as published}}}; or {}
    __init__(**options)     reads its files: raises UserError for one that is not as it should be
    ready(device)    loads the judge: raises UserError, before anything is drawn, where it can't be had
    record()         all that a figure depends on beside the pictures: judge, weights, thresholds
    rows(concepts, erase_from)   → the pictures to make and to judge, [Row], each once; erase_from: one text for each
                     concept ("": none), or nothing
    measure(batches) → {figure: counts.rate_figure(…) or counts.mean_figure(…)}
A batch is (rows, their pictures (B, 3, H, W) in [0, 1], the base model's of the same rows), both on the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from esd.files import slug


@dataclass(frozen=True)
class Row:
    """One picture to make and to judge.

    group: the figure that it counts towards; subject: what the judge is to look for. Noise is a function of `seed` alone.
    """

    group: str
    prompt: str
    seed: int
    subject: object = None
    guidance: float = 7.5
    width: int | None = None  # pixels; None: the model's own size
    height: int | None = None

    @property
    def file(self) -> str:
        """The picture's name: a function of all that it depends on beside the model and the steps."""
        look = f"{self.prompt}\n{self.seed} {float(self.guidance)} {self.width} {self.height}"
        return f"{slug(self.prompt)}-{self.seed}-{hashlib.sha256(look.encode()).hexdigest()[:8]}.png"


def noise_seed(protocol: str, prompt: str, number: int) -> int:
    """The seed of a prompt's number-th noise: of these alone, wherever the prompt stands in whatever list.

    Below 2³²: torch's generator on the processor looks at no more bits.
    """
    return int.from_bytes(hashlib.sha256(f"{protocol}\n{prompt}\n{number}".encode()).digest()[:4], "big")


def each_once(rows: Iterable[Row]) -> list[Row]:
    """The rows without those that ask the same of the same picture again: a picture that is counted twice is no second one."""
    return list(dict.fromkeys(rows))


Batches = Iterable[tuple[Sequence[Row], Tensor, Tensor]]
