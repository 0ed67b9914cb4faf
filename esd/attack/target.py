"""What is attacked, and what an attack finds: the interface between the attacks and those who judge them.

An attack is a class with
    needs            what it cannot do without: "pictures" (of the concept), "text" (gradients through the text encoder),
                     "vocabulary" (one vocabulary for all the family's text encoders), "noise" (DDIM on ε-prediction)
    check            the model on which it must succeed before its failure says anything: "base" (the unedited one, where the
                     attack does not name the concept) or "weak edit" (a third of the way to the edit, where it does)
    find(target, seed)   → what it finds, one `Found` for each budget of `steps`, each a function of (target, seed) alone
    draws            pictures of each find; None: as many as the command asks for
    finds            how many finds a call has
    forwards()       rows that pass through the denoiser in one `find`, a backward pass counted as two more
conf/attack/ names them, with their budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from esd.erasing.walks import predict, select_rows
from esd.models.family import Condition, Model
from esd.sample.sampling import finish, pictures_at_once, sampler_of

POSITIONS = 50  # of the schedule that attacks train on
SNR = 5.0  # min-SNR-5 weights (Hang et al. 2023, arXiv 2303.09556)


class Found(NamedTuple):
    """What an attack found. draw(seeds, denoiser) gives pictures (n, 3, H, W), each from the noise of its seed, by another
    denoiser than the attacked one where one is given: `transfers` says whether that means anything."""

    steps: int  # optimiser steps, or tries, that it took
    text: str  # the adversarial words, "" where what was found is no text
    loss: float | None
    draw: Callable[[Sequence[int], nn.Module | None], Tensor]
    transfers: bool = True


class Attack(Protocol):
    needs: tuple[str, ...]
    check: str
    draws: int | None
    finds: int

    def find(self, target: Target, seed: int) -> Iterator[Found]: ...

    def forwards(self) -> float: ...


@dataclass
class Target:
    """A model under attack, with what the attacker holds.

    denoiser: the one attacked, frozen; base: the model with θ*, which the attacker may compare with. A twin's text encoder
              is another than its base's, the latents are of one space
    prompt:   asks for the concept by name; words: the concept's own words, which an attack on words leaves out
    latents:  (P, C, h, w) of pictures of the concept, or None
    others:   prompts that name other things: where free conditionings start
    synonyms: other words for the concept, where they are known
    """

    model: Model
    denoiser: nn.Module
    base: Model
    prompt: str
    words: frozenset[str]
    latents: Tensor | None
    others: list[str]
    synonyms: list[str]
    guidance: float
    sampling_steps: int
    sampler: str = "own"  # of pictures: as sample() is told
    base_knows: bool = True  # whether θ* knows the concept: not that of a control

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def condition(self, prompts: Sequence[str]) -> Condition:
        return {name: tensor.detach() for name, tensor in self.model.encode(list(prompts), self.device).items()}

    def base_condition(self, prompts: Sequence[str]) -> Condition:
        return {name: tensor.detach() for name, tensor in self.base.encode(list(prompts), self.device).items()}

    def draw(self, condition: Condition, seeds: Sequence[int], denoiser: nn.Module | None = None) -> Tensor:
        """Pictures (n, 3, H, W) under a condition of one row, or of a row for each seed."""
        sampler = sampler_of(self.model, self.sampling_steps, self.sampler).to(self.device)
        return self.finish(sampler, sampler.start(self.model.noise(seeds)), 0, condition, denoiser)

    def finish(self, sampler, x: Tensor, position: int, condition: Condition, denoiser: nn.Module | None = None) -> Tensor:
        """Latents (n, C, h, w) at this position of the sampler, drawn to the end."""
        rows, null = len(next(iter(condition.values()))), self.condition([""])
        pictures = []
        for index in torch.arange(len(x)).split(pictures_at_once(self.model)):
            here = select_rows(condition, index if rows > 1 else torch.zeros_like(index))
            none = select_rows(null, torch.zeros_like(index))
            part = x[index].to(self.device)
            denoising = self.denoiser if denoiser is None else denoiser
            pictures.append(finish(self.model, denoising, sampler, part, position, here, none, self.guidance))
        return torch.cat(pictures)

    def error(self, condition: Condition, x_0: Tensor, noise: Tensor, position: Tensor, sampler) -> Tensor:
        """‖prediction − what a denoiser that knew the picture would predict‖² at positions (B,), min-SNR-weighted: (B,)."""
        x = sampler.noised(x_0, noise, position)
        (prediction,) = predict(self.model, self.denoiser, sampler, x, position, condition)
        weight = (SNR / sampler.snr(position)).clamp(max=1)
        return (prediction - sampler.exact(x_0, noise, position)).square().flatten(1).mean(1) * weight

    def examples(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(x_0, noise, position) of a batch: random pictures of the concept, positions spread evenly over the schedule."""
        picked = self.latents[torch.randint(len(self.latents), (batch,), generator=generator)]
        noise = torch.randn(picked.shape, generator=generator)
        spread = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        position = (spread * POSITIONS).long().clamp(max=POSITIONS - 1)
        return picked.to(self.device), noise.to(self.device), position.to(self.device)


def adam(free: Sequence[Tensor], lr: float, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Adam whose rate falls to nothing over so many steps: a budget has its own schedule."""
    optimizer = torch.optim.Adam(free, lr)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def seeded(seed: int, steps: int = 0) -> torch.Generator:
    """The randomness of an attack: apart from that of the noises which are judged, whose seeds are small whole numbers."""
    return torch.Generator().manual_seed(7_919 * (seed + 1) + 104_729 * (steps + 1))
