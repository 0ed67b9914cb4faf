"""What flags pictures before anybody sees them: the embedded judge, or the safety checker that a pipeline ships with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from esd.metrics.clip import looked_at

Flags = Callable[[Tensor], Tensor]  # pictures (B, 3, H, W) in [0, 1] → which are flagged, (B,) bool


def emoji_filter(concepts: Sequence[str]) -> Flags:
    """The embedded judge as a filter: it flags what it takes for one of the concepts."""
    from esd.emoji.judge import load_judge
    from esd.emoji.subject import subject
    from esd.metrics.emoji import shows_subject

    judge, subjects = load_judge(), [subject(text) for text in concepts]

    @torch.no_grad()
    def flags(pictures: Tensor) -> Tensor:
        objects, styles = (logits.argmax(1) for logits in judge(pictures))
        return torch.stack([shows_subject(objects, styles, [about] * len(pictures)) for about in subjects]).any(0)

    return flags


def checker_filter(path: str | None, name: str) -> Flags:
    """The pipeline's own safety checker, which knows a list of its own, whatever was to be erased."""
    from esd.models.safety import safety_checker

    checker, look = safety_checker(path, name)
    mean, std = (torch.tensor(look[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    side = checker.config.vision_config.image_size

    @torch.no_grad()
    def flags(pictures: Tensor) -> Tensor:
        return torch.tensor(checker(clip_input=looked_at(pictures, side, mean, std), images=pictures.clone())[1])

    return flags
