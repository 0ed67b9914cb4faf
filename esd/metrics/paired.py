"""How far pictures moved from the base model's under the same noise: damage that a hit rate does not show."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class PairedDistance(Metric):
    """The mean distance between pairs of pictures; 0 for equal pictures.

    update(images (B, 3, H, W), base (B, 3, H, W), both in [0, 1]); compute() → the mean of `distances()`.
    With `features` (pictures (B, 3, H, W) → (B, D)) the distance is 1 − cosine of the features, in [0, 2]; without, it
    is the root of the mean squared difference of the pixels, in [0, 1].
    """

    higher_is_better = False
    values: list[Tensor]

    def __init__(self, features: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.features = features
        self.add_state("values", [], dist_reduce_fx="cat")

    @torch.no_grad()
    def update(self, images: Tensor, base: Tensor) -> None:
        if self.features is None:
            distance = (images - base).square().flatten(1).mean(1).sqrt()
        else:
            one, other = (F.normalize(self.features(pictures)) for pictures in (images, base))
            distance = (one - other).square().sum(1) / 2  # 1 − cos, and 0 of equal pictures, without rounding
        self.values.append(distance.cpu())

    def distances(self) -> Tensor:
        """One distance for each pair so far: (n,)."""
        return dim_zero_cat(self.values) if self.values else torch.zeros(0)

    def compute(self) -> Tensor:
        return self.distances().mean()
