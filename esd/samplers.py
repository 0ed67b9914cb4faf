"""Stepping latents through a schedule, each latent at its own position; stateless, checked against diffusers.

A latent at position i of N is about to be denoised at time step `timesteps[i]`; `step` takes it to position i + 1, and
position N is the picture.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))  # (B,) → (B, 1, 1, 1)


class DDIM(nn.Module):
    """Deterministic DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 with σ = 0), for ε- and v-prediction."""

    def __init__(self, scheduler: DDIMScheduler, steps: int):
        """scheduler: read for its schedule and not kept; steps: N, at most its training steps."""
        super().__init__()
        scheduler = DDIMScheduler.from_config(scheduler.config)
        scheduler.set_timesteps(steps)
        self.v_prediction = scheduler.config.prediction_type == "v_prediction"
        t = scheduler.timesteps  # (N,), falling
        before = t - scheduler.config.num_train_timesteps // steps
        alpha_before = torch.where(before >= 0, scheduler.alphas_cumprod[before.clamp(min=0)], scheduler.final_alpha_cumprod)
        self.register_buffer("timesteps", t, persistent=False)
        self.register_buffer("alpha", scheduler.alphas_cumprod[t], persistent=False)  # (N,)
        self.register_buffer("alpha_before", alpha_before, persistent=False)  # (N,)

    def __len__(self) -> int:
        return len(self.timesteps)

    def start(self, noise: Tensor) -> Tensor:
        """Unit noise as a latent at position 0."""
        return noise

    def scaled(self, x: Tensor, position: Tensor) -> Tensor:
        """What the denoiser is given for x."""
        return x

    def step(self, x: Tensor, prediction: Tensor, position: Tensor) -> Tensor:
        """x (B, C, h, w) at positions (B,) → at positions + 1."""
        alpha, alpha_before = _wide(self.alpha[position], x), _wide(self.alpha_before[position], x)
        if self.v_prediction:
            x_0 = alpha.sqrt() * x - (1 - alpha).sqrt() * prediction
            eps = alpha.sqrt() * prediction + (1 - alpha).sqrt() * x
        else:
            x_0, eps = (x - (1 - alpha).sqrt() * prediction) / alpha.sqrt(), prediction
        return alpha_before.sqrt() * x_0 + (1 - alpha_before).sqrt() * eps
