"""Attacks on how a picture is drawn, which optimise nothing (Lu et al. 2025, "When Are Concepts Erased From Diffusion
Models?", arXiv 2505.17013): the prompt names the concept, and the walk begins or goes on where the edit did not expect it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from esd import UserError
from esd.attack.inversion import repeated
from esd.attack.target import Found, Target, seeded
from esd.erasing.walks import guide, predict, walk
from esd.models.family import Model
from esd.models.samplers import DDIM, Sampler


class NoisedPicture:
    """A picture of the concept, noised to a time step at which little of it is left, and drawn to the end by the edit.

    shares: of the schedule that is left out. (A picture's DDIM inversion and back is no attack: the picture is in the
    input. Noised to t ≥ 551 of 1000 it is one.) steps: of the whole walk, by the family's own sampler.
    """

    needs, check, draws = ("pictures",), "weak edit", None

    def __init__(self, shares: list[float], steps: int):
        self.shares, self.steps, self.finds = shares, steps, len(shares)

    def forwards(self) -> float:
        return 0.0

    def find(self, target: Target, seed: int) -> Iterator[Found]:
        condition = target.condition([target.prompt])
        sampler = target.model.sampler(self.steps).to(target.device)
        for share in self.shares:
            position = max(1, round(share * len(sampler)))

            def draw(seeds: Sequence[int], denoiser: nn.Module | None = None, position: int = position) -> Tensor:
                x = self.latents(target, sampler, seeds, position, seed)
                return target.finish(sampler, x, position, condition, denoiser)

            yield Found(position, "", None, draw)

    def latents(self, target: Target, sampler: Sampler, seeds: Sequence[int], position: int, seed: int) -> Tensor:
        """A picture of the concept for each of these noises, as latents at this position: (n, C, h, w)."""
        picked = target.latents[torch.randint(len(target.latents), (len(seeds),), generator=seeded(seed))].to(target.device)
        noise = target.model.noise(seeds).to(target.device)
        return sampler.noised(picked, noise, torch.full((len(seeds),), position, device=target.device))


class Completion(NoisedPicture):
    """The base model draws the first steps, the edit the rest.

    shares: of the schedule that the base model draws; the published attack has 5 of 50 steps. A target whose base model
    does not know the concept (a control) begins with a picture, noised to the same place.
    """

    needs = ()

    def latents(self, target: Target, sampler: Sampler, seeds: Sequence[int], position: int, seed: int) -> Tensor:
        """The base model's walk under the prompt, up to this position: (n, C, h, w)."""
        if not target.base_knows:
            return super().latents(target, sampler, seeds, position, seed)
        x, n = sampler.start(target.model.noise(seeds)).to(target.device), len(seeds)
        start = torch.zeros(n, dtype=torch.int64, device=target.device)
        here, none = (repeated(target.base_condition([prompt]), n) for prompt in (target.prompt, ""))
        with torch.inference_mode():
            stop = torch.full_like(start, position)
            return walk(target.base, target.base.denoiser, sampler, x, start, stop, here, none, target.guidance)


class NoiseProbe:
    """More noise than the sampler would add: η of DDIM beyond 1, and a start scaled up; the best of all settings counts.

    Each setting is a try of its own: success at one is a find, as published (best of 24). steps: of a walk.
    """

    needs, check = ("noise",), "weak edit"

    def __init__(self, etas: list[float], scales: list[float], draws: int, steps: int):
        self.etas, self.scales, self.draws, self.steps = etas, scales, draws, steps
        self.finds = len(etas) * len(scales)

    def forwards(self) -> float:
        return 0.0

    def find(self, target: Target, seed: int) -> Iterator[Found]:
        sampler = ddim_of(target.model, self.steps).to(target.device)
        condition = target.condition([target.prompt])
        for n, (eta, scale) in enumerate((eta, scale) for eta in self.etas for scale in self.scales):

            def draw(seeds: Sequence[int], denoiser: nn.Module | None = None, eta=eta, scale=scale) -> Tensor:
                return stochastic(target, denoiser or target.denoiser, sampler, condition, seeds, eta, scale, seed)

            yield Found(n + 1, "", None, draw)


def ddim_of(model: Model, steps: int) -> DDIM:
    """The family's sampler where it is DDIM on ε-prediction, to which noise can be added. Raises UserError where it is not."""
    sampler = model.sampler(steps)
    if not isinstance(sampler, DDIM) or sampler.v_prediction:
        raise UserError(f"attack=noise adds DDIM's own noise to ε-prediction, which {model.name} does not have")
    return sampler


@torch.inference_mode()
def stochastic(
    target: Target, denoiser: nn.Module, sampler: DDIM, condition, seeds: Sequence[int], eta: float, scale: float, seed: int
) -> Tensor:
    """DDIM with noise (Song et al. 2021, eq. 12): σ = η·√((1 − ᾱ')/(1 − ᾱ))·√(1 − ᾱ/ᾱ'), no more than √(1 − ᾱ')."""
    n, generator = len(seeds), seeded(seed)
    x = scale * target.model.noise(seeds).to(target.device)
    here, none = repeated(condition, n), repeated(target.condition([""]), n)
    for i in range(len(sampler)):
        position = torch.full((n,), i, device=target.device)
        eps = guide(*predict(target.model, denoiser, sampler, x, position, here, none), target.guidance)
        alpha, before = sampler.alpha[i], sampler.alpha_before[i]
        sigma = eta * ((1 - before) / (1 - alpha) * (1 - alpha / before)).clamp(min=0).sqrt()
        sigma = sigma.clamp(max=(1 - before).sqrt())
        x_0 = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
        fresh = torch.randn(x.shape, generator=generator).to(x)
        x = before.sqrt() * x_0 + (1 - before - sigma**2).clamp(min=0).sqrt() * eps + sigma * fresh
    return target.model.decode(x).cpu()
