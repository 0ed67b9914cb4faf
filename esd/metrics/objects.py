"""Which object of Imagenette a picture shows, as a ResNet-50 sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from esd import UserError

# Imagenette's ten classes and their places among ImageNet's thousand (github.com/fastai/imagenette).
IMAGENETTE = {
    "tench": 0, "english springer": 217, "cassette player": 482, "chain saw": 491, "church": 497, "french horn": 566,
    "garbage truck": 569, "gas pump": 571, "golf ball": 574, "parachute": 701,
}  # fmt: skip


def resnet() -> nn.Module:
    """torchvision's ResNet-50, IMAGENET1K_V2 (what the paper's script takes), with the resizing it was trained for:
    pictures (B, 3, H, W) in [0, 1] → logits (B, 1000). Raises UserError where package or weights can't be had."""
    try:
        from torchvision.models import ResNet50_Weights, resnet50

        weights = ResNet50_Weights.IMAGENET1K_V2
        network = resnet50(weights=weights)
    except (ImportError, OSError) as error:  # a download that fails is an OSError
        raise UserError(
            f"ResNet-50 can't be had ({error}): pip install 'erased-diffusion[judges]', and its weights (98 MB) come from "
            "torchvision's server, or from $TORCH_HOME/hub/checkpoints"
        ) from error
    return nn.Sequential(weights.transforms(antialias=True), network).eval().requires_grad_(False)


class Classified(Metric):
    """The share of pictures whose top class among ImageNet's thousand is the one asked for.

    update(images (B, 3, H, W) in [0, 1], a name of IMAGENETTE for each); compute() → a rate in [0, 1].
    """

    higher_is_better = None  # depends on whether the class was erased
    hits: Tensor
    of: Tensor

    def __init__(self, network: nn.Module | None = None):
        super().__init__()
        self.network = network or resnet()
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("of", torch.tensor(0), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, images: Tensor, names: Sequence[str]) -> None:
        wanted = torch.tensor([IMAGENETTE[name] for name in names], device=images.device)
        self.hits += (self.network(images).argmax(1) == wanted).sum().to(self.hits.device)
        self.of += len(images)

    def compute(self) -> Tensor:
        return self.hits / self.of
