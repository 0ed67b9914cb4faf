"""Stepping latents through a schedule, each latent at its own position; stateless, checked against diffusers.

A latent at position i of N is about to be denoised at time step `timesteps[i]`; `step` takes it to position i + 1, or to
a later one at once, and position N is the picture. On its own:

    import torch
    from diffusers import DDIMScheduler
    from esd.models.samplers import DDIM

    sampler = DDIM(DDIMScheduler(clip_sample=False, set_alpha_to_one=False), steps=50)
    x, position = sampler.start(torch.randn(2, 4, 8, 8)), torch.tensor([0, 7])     # two latents, each where it stands
    eps = torch.zeros_like(x)                                                      # what the denoiser said of them
    x = sampler.step(x, eps, position)                                             # now at positions 1 and 8
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor, nn

from esd import UserError


class Sampler(Protocol):
    """An nn.Module, so that its tables move with the module that holds it."""

    timesteps: Tensor  # (N,), falling, as the denoiser takes them

    def __len__(self) -> int: ...

    def start(self, noise: Tensor) -> Tensor:
        """Unit noise as a latent at position 0."""

    def scaled(self, x: Tensor, position: Tensor) -> Tensor:
        """What the denoiser is given for x."""

    def step(self, x: Tensor, prediction: Tensor, position: Tensor, to: Tensor | None = None) -> Tensor:
        """x (B, C, h, w) at positions (B,) → at later positions (B,), the next unless given."""

    def noised(self, x_0: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        """A picture's latents x_0 (B, C, h, w) with this much unit noise, as a latent at positions (B,)."""

    def exact(self, x_0: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        """What a denoiser that knew both would predict there: the target of training on pictures."""

    def snr(self, position: Tensor) -> Tensor:
        """The signal's power over the noise's at positions (B,)."""


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))  # (B,) → (B, 1, 1, 1)


def require_v_from_pure_noise(v_prediction: bool, alpha: float) -> None:
    """Raises UserError where a schedule begins at ᾱ = 0 (or next to it) and the denoiser predicts ε: the picture
    x_0 = (x − √(1 − ᾱ)·ε)/√ᾱ is not finite."""
    if not v_prediction and alpha < 1e-6:
        raise UserError(
            "the model's schedule begins in pure noise (zero SNR: rescale_betas_zero_snr, timestep_spacing), where ε says "
            "nothing of the picture: add model.prediction=v (or, in its scheduler_config.json, "
            "prediction_type=v_prediction) if the model was trained so, else rescale_betas_zero_snr=false there"
        )


class DDIM(nn.Module):
    """Deterministic DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 with σ = 0), for ε- and v-prediction."""

    def __init__(self, scheduler: DDIMScheduler, steps: int):
        """scheduler: read for its schedule and not kept; steps: N, fewer than its training steps."""
        super().__init__()
        scheduler = DDIMScheduler.from_config(scheduler.config)
        trained = scheduler.config.num_train_timesteps
        if not 1 <= steps < trained:  # at N = trained, an offset schedule would start one step beyond its own end
            raise UserError(f"sampling_steps={steps} must be from 1 to {trained - 1}: the model knows {trained} time steps")
        scheduler.set_timesteps(steps)
        self.v_prediction = scheduler.config.prediction_type == "v_prediction"
        t = scheduler.timesteps  # (N,), falling
        before = t - trained // steps
        alpha_before = torch.where(before >= 0, scheduler.alphas_cumprod[before.clamp(min=0)], scheduler.final_alpha_cumprod)
        require_v_from_pure_noise(self.v_prediction, float(scheduler.alphas_cumprod[t[0]]))
        self.register_buffer("timesteps", t, persistent=False)
        self.register_buffer("alpha", scheduler.alphas_cumprod[t], persistent=False)  # (N,)
        self.register_buffer("alpha_before", alpha_before, persistent=False)  # (N,)

    def __len__(self) -> int:
        return len(self.timesteps)

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def scaled(self, x: Tensor, position: Tensor) -> Tensor:
        return x

    def step(self, x: Tensor, prediction: Tensor, position: Tensor, to: Tensor | None = None) -> Tensor:
        last = position if to is None else to - 1  # the last position that is stepped over
        alpha, alpha_before = _wide(self.alpha[position], x), _wide(self.alpha_before[last], x)
        if self.v_prediction:
            x_0 = alpha.sqrt() * x - (1 - alpha).sqrt() * prediction
            eps = alpha.sqrt() * prediction + (1 - alpha).sqrt() * x
        else:
            x_0, eps = (x - (1 - alpha).sqrt() * prediction) / alpha.sqrt(), prediction
        return alpha_before.sqrt() * x_0 + (1 - alpha_before).sqrt() * eps

    def noised(self, x_0: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        alpha = _wide(self.alpha[position], x_0)
        return alpha.sqrt() * x_0 + (1 - alpha).sqrt() * noise

    def exact(self, x_0: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        alpha = _wide(self.alpha[position], x_0)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * x_0 if self.v_prediction else noise

    def snr(self, position: Tensor) -> Tensor:
        return self.alpha[position] / (1 - self.alpha[position])


class DPMSolver(nn.Module):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2), for ε and v: a step goes along a line through the
    picture that is predicted here and the one that was predicted at the stop before, so that 10 steps draw what DDIM's 30 do.

    A walk keeps for each latent what the stop before said of the picture: `denoised`. Without it (at a walk's start), and on
    the last step, the step is of first order, which is DDIM's.
    """

    def __init__(self, scheduler: DPMSolverMultistepScheduler, steps: int):
        super().__init__()
        scheduler = DPMSolverMultistepScheduler.from_config(
            scheduler.config, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", thresholding=False
        )
        trained = scheduler.config.num_train_timesteps
        if not 1 <= steps < trained:
            raise UserError(f"sampling_steps={steps} must be from 1 to {trained - 1}: the model knows {trained} time steps")
        scheduler.set_timesteps(steps)
        self.v_prediction = scheduler.config.prediction_type == "v_prediction"
        alpha = 1 / (1 + scheduler.sigmas**2).sqrt()  # (N + 1,): of a latent α·picture + σ·noise; its squares are ᾱ
        require_v_from_pure_noise(self.v_prediction, float(alpha[0]) ** 2)
        self.register_buffer("timesteps", scheduler.timesteps, persistent=False)  # (N,)
        self.register_buffer("alpha", alpha, persistent=False)
        self.register_buffer("sigma", scheduler.sigmas * alpha, persistent=False)  # (N + 1,)

    def __len__(self) -> int:
        return len(self.timesteps)

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def scaled(self, x: Tensor, position: Tensor) -> Tensor:
        return x

    def denoised(self, x: Tensor, prediction: Tensor, position: Tensor) -> Tensor:
        """The picture's latents that are predicted: (B, C, h, w)."""
        alpha, sigma = _wide(self.alpha[position], x), _wide(self.sigma[position], x)
        return alpha * x - sigma * prediction if self.v_prediction else (x - sigma * prediction) / alpha

    def step(
        self, x: Tensor, prediction: Tensor, position: Tensor, to: Tensor | None = None,
        before: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """before: x_0 (B, C, h, w) as it was `denoised` at an earlier position, and that position (B,); where it is this one
        there was none."""
        to = position + 1 if to is None else to
        x_0 = self.denoised(x, prediction, position)
        lam = (self.alpha / self.sigma).log()  # λ (N + 1,), infinite at the picture
        h = _wide(lam[to] - lam[position], x)
        mean = x_0
        if before is not None:
            earlier, at = before
            second = _wide((at < position) & (to < len(self)), x)
            ratio = h / _wide(lam[position] - lam[at], x)  # 1/r
            mean = torch.where(second, x_0 + ratio * (x_0 - earlier) / 2, x_0)
        return _wide(self.sigma[to] / self.sigma[position], x) * x - _wide(self.alpha[to], x) * torch.expm1(-h) * mean

    def noised(self, x_0: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        return _wide(self.alpha[position], x_0) * x_0 + _wide(self.sigma[position], x_0) * noise

    def exact(self, x_0: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        alpha, sigma = _wide(self.alpha[position], x_0), _wide(self.sigma[position], x_0)
        return alpha * noise - sigma * x_0 if self.v_prediction else noise

    def snr(self, position: Tensor) -> Tensor:
        return (self.alpha[position] / self.sigma[position]) ** 2


class Euler(nn.Module):
    """Euler's method on dx/dσ (Karras et al. 2022, arXiv 2206.00364, algorithm 2 without churn), for ε and v.

    Latents carry noise of standard deviation σ and are not bounded: the denoiser is given x / √(σ² + 1), and forgetting
    that makes its inputs up to 13 times too large.
    """

    def __init__(self, scheduler: EulerDiscreteScheduler, steps: int):
        super().__init__()
        scheduler = EulerDiscreteScheduler.from_config(scheduler.config)
        scheduler.set_timesteps(steps)
        self.v_prediction = scheduler.config.prediction_type == "v_prediction"
        require_v_from_pure_noise(self.v_prediction, 1 / (1 + float(scheduler.sigmas[0]) ** 2))
        self.start_sigma = float(scheduler.init_noise_sigma)
        self.register_buffer("timesteps", scheduler.timesteps, persistent=False)  # (N,)
        self.register_buffer("sigma", scheduler.sigmas, persistent=False)  # (N + 1,)

    def __len__(self) -> int:
        return len(self.timesteps)

    def start(self, noise: Tensor) -> Tensor:
        return noise * self.start_sigma

    def scaled(self, x: Tensor, position: Tensor) -> Tensor:
        return x / (_wide(self.sigma[position], x) ** 2 + 1).sqrt()

    def step(self, x: Tensor, prediction: Tensor, position: Tensor, to: Tensor | None = None) -> Tensor:
        sigma, after = _wide(self.sigma[position], x), _wide(self.sigma[position + 1 if to is None else to], x)
        if self.v_prediction:
            x_0 = x / (sigma**2 + 1) - prediction * sigma / (sigma**2 + 1).sqrt()
            slope = (x - x_0) / sigma
        else:
            slope = prediction
        return x + (after - sigma) * slope

    def noised(self, x_0: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        return x_0 + _wide(self.sigma[position], x_0) * noise

    def exact(self, x_0: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        if not self.v_prediction:
            return noise
        sigma = _wide(self.sigma[position], x_0)
        return (noise - sigma * x_0) / (sigma**2 + 1).sqrt()

    def snr(self, position: Tensor) -> Tensor:
        return self.sigma[position] ** -2


class Flow(nn.Module):
    """Euler's method on a rectified flow x = (1 − σ)·picture + σ·noise, whose denoiser predicts the velocity dx/dσ
    (Liu et al. 2023, arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206)."""

    def __init__(
        self, scheduler: FlowMatchEulerDiscreteScheduler, steps: int, sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ):  # fmt: skip
        """sigmas, mu: as the family's pipeline sets the schedule, before its shift and for it."""
        super().__init__()
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)
        scheduler.set_timesteps(steps, sigmas=sigmas, mu=mu)
        self.register_buffer("timesteps", scheduler.timesteps, persistent=False)  # (N,)
        self.register_buffer("sigma", scheduler.sigmas, persistent=False)  # (N + 1,)

    def __len__(self) -> int:
        return len(self.timesteps)

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def scaled(self, x: Tensor, position: Tensor) -> Tensor:
        return x

    def step(self, x: Tensor, prediction: Tensor, position: Tensor, to: Tensor | None = None) -> Tensor:
        after = self.sigma[position + 1 if to is None else to]
        return x + _wide(after - self.sigma[position], x) * prediction

    def noised(self, x_0: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        sigma = _wide(self.sigma[position], x_0)
        return (1 - sigma) * x_0 + sigma * noise

    def exact(self, x_0: Tensor, noise: Tensor, position: Tensor) -> Tensor:
        return noise - x_0

    def snr(self, position: Tensor) -> Tensor:
        return (1 / self.sigma[position] - 1) ** 2
