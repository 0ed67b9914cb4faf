"""What the emoji judge sees in pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from esd.emoji.judge import OBJECT_LABELS, STYLE_LABELS, Judge, load_judge
from esd.emoji.subject import Subject


def shows_subject(objects: Tensor, styles: Tensor, subjects: Sequence[Subject]) -> Tensor:
    """Whether each picture shows its subject, from the judge's labels (B,) and (B,): (B,) bool."""
    seen = [
        (not s.objects or OBJECT_LABELS[o] in s.objects) and (not s.styles or STYLE_LABELS[t] in s.styles)
        for o, t, s in zip(objects.tolist(), styles.tolist(), subjects, strict=True)
    ]
    return torch.tensor(seen, dtype=torch.bool)


class Seen(Metric):
    """The share of pictures in which the judge sees what was asked about.

    update(images (B, 3, 64, 64) in [0, 1], one Subject for each); compute() → a rate in [0, 1].
    """

    higher_is_better = None  # depends on whether the subject was erased
    hits: Tensor
    of: Tensor

    def __init__(self, judge: Judge | None = None):
        super().__init__()
        self.judge = judge or load_judge()
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("of", torch.tensor(0), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, images: Tensor, subjects: Sequence[Subject]) -> None:
        objects, styles = self.judge(images)
        self.hits += shows_subject(objects.argmax(1), styles.argmax(1), subjects).sum().to(self.hits.device)
        self.of += len(images)

    def compute(self) -> Tensor:
        return self.hits / self.of
