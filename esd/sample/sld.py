"""Safe latent diffusion (Schramowski et al. 2023, arXiv 2211.05105): sampling is guided away from a concept, and the weights
stay as they are.

    ε̄ = ε_∅ + s_g·(ε_c − ε_∅ − γ)      γ = μ·(ε_S − ε_∅) + s_m·ν      ν ← β_m·ν + (1 − β_m)·γ
    μ = min(1, |s_S·(ε_c − ε_S)|) where ε_c − ε_S < λ, else 0

S is the concept. In the first δ steps of 50 the momentum ν is gathered and nothing is taken away. The paper prints max(1, …)
in μ; the authors' code, which its figures are of, takes min.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from esd.erasing.walks import guide


class Setting(NamedTuple):
    warm_up: int  # δ, of 50 steps
    scale: float  # s_S
    threshold: float  # λ, in units of what the denoiser predicts
    momentum: float  # s_m
    keeps: float  # β_m


SETTINGS = {  # as published
    "weak": Setting(15, 200, 0.0, 0.0, 0.0),
    "medium": Setting(10, 1000, 0.01, 0.3, 0.4),
    "strong": Setting(7, 2000, 0.025, 0.5, 0.7),
    "max": Setting(0, 5000, 1.0, 0.5, 0.7),
}


def safety_term(eps_c: Tensor, eps_null: Tensor, eps_s: Tensor, scale: float, threshold: float) -> Tensor:
    """γ without its momentum, all (B, C, h, w)."""
    mu = (scale * (eps_c - eps_s)).abs().clamp(max=1)
    return torch.where(eps_c - eps_s < threshold, mu, 0) * (eps_s - eps_null)


@dataclass(frozen=True)
class SafeLatentDiffusion:
    """concept: S. setting: one of SETTINGS."""

    concept: str
    setting: str

    def guidance(self, predict_concept: Callable[[Tensor, Tensor, Tensor], Tensor], guidance: float, steps: int) -> Callable:
        """For one batch of walks of so many steps: what takes the place of classifier-free guidance.

        predict_concept(rows, x, position): ε_S at these latents, which are these rows of the batch.
        """
        s, momentum = SETTINGS[self.setting], {}  # row: ν, (C, h, w)

        def guided(rows: Tensor, position: Tensor, x: Tensor, eps_c: Tensor, eps_null: Tensor) -> Tensor:
            gamma = safety_term(eps_c, eps_null, predict_concept(rows, x, position), s.scale, s.threshold)
            nu = torch.stack([momentum.get(row, torch.zeros_like(gamma[0])) for row in rows.tolist()])
            gamma = gamma + s.momentum * nu
            momentum.update(zip(rows.tolist(), s.keeps * nu + (1 - s.keeps) * gamma, strict=True))
            taken = torch.where((position >= s.warm_up * steps / 50).view(-1, *[1] * (x.dim() - 1)), gamma, 0)
            return guide(eps_c - taken, eps_null, guidance)

        return guided
