"""What the algorithm knows of a model: a denoiser that is asked about latents under a prompt, and the ways in and out.

The same five words serve an ε-predicting U-Net and a flow transformer: encode, noise, predict, sampler, decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn

from esd.models.precision import lent
from esd.models.samplers import Sampler

Condition = dict[str, Tensor]  # what a prompt is to the denoiser; every tensor has the prompts first


class Model(Protocol):
    """One loaded base model. Its files: stable_diffusion.py, sdxl.py, sd3.py, flux.py."""

    name: str
    denoiser: nn.Module  # the frozen U-Net or transformer
    base: DiffusionPipeline  # as it was found: what an export writes
    base_hash: str  # the denoiser's fingerprint as it was found: of the values on disk, whatever they are stored in
    latent_shape: tuple[int, int, int]  # (C, h, w)
    scheduler: SchedulerMixin  # the configuration that `sampler` computes
    on_disk: torch.dtype  # of the denoiser's matrices
    source: str  # the denoiser's files, in words

    def encode(self, prompts: Sequence[str], device: torch.device | str = "cpu") -> Condition:
        """The prompts as a condition, encoded on this device; "" is the null prompt ∅, the one the family's pipeline guides
        away from."""

    def noise(self, seeds: Sequence[int] | Tensor) -> Tensor:
        """Unit noise, each row a function of its own seed alone: (B, C, h, w) float32 on the CPU."""

    def predict(self, denoiser: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the denoiser says of x (B, C, h, w) at time steps t (B,): ε, v or a velocity, of x's shape, float32."""

    def decode(self, x: Tensor) -> Tensor:
        """Latents (B, C, h, w) → pictures (B, 3, H, W) in [0, 1]."""

    def latents(self, pictures: Tensor) -> Tensor:
        """The way back: pictures (B, 3, H, W) in [0, 1] → their mean latents (B, C, h, w)."""

    def sampler(self, steps: int) -> Sampler: ...

    def pipeline(self, denoiser: nn.Module) -> DiffusionPipeline:
        """The whole as a diffusers pipeline around this denoiser, with the scheduler that `sampler` computes."""


def frozen(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """Every network of the pipeline in eval mode and without gradients."""
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    return pipeline


def unit_noise(shape: Sequence[int], seeds: Sequence[int] | Tensor) -> Tensor:
    """(B, *shape), row b from seed b alone."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])


def not_in_half(device: torch.device) -> AbstractContextManager:
    """Inside, an autocast to float16 is off."""
    half = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16
    return torch.autocast(device.type, enabled=False) if half else nullcontext()


def middle_and_std(vae: AutoencoderKL, x: Tensor) -> tuple[Tensor, Tensor]:
    """What is taken from a VAE's own latents, and what divides them, before they are scaled: for each channel where the VAE
    says so (some of XL's: models/settings.py), else its shift and 1. Of x's type and device."""
    config = vae.config
    if config.latents_mean is not None and config.latents_std is not None:
        middle, std = (x.new_tensor(values).view(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std))
        return middle + (config.shift_factor or 0.0), std
    return x.new_tensor(config.shift_factor or 0.0), x.new_tensor(1.0)


@torch.no_grad()
def pictures(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Latents (B, C, h, w) → pictures (B, 3, H, W) in [0, 1], on the latents' device, and not in float16: XL's VAE overflows
    there."""
    middle, std = middle_and_std(vae, x.float())
    x = x.float() / vae.config.scaling_factor * std + middle
    with lent(x.device, vae, dtype=torch.float32), not_in_half(x.device):
        image = vae.decode(x).sample.float()
    return (image / 2 + 0.5).clamp(0, 1) + 0 * image  # what is infinite becomes NaN, not white


@torch.no_grad()
def latents(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] → their mean latents (B, C, h, w), as the denoiser sees them, on the same device."""
    with lent(pictures.device, vae, dtype=torch.float32), not_in_half(pictures.device):
        mean = vae.encode(2 * pictures.float() - 1).latent_dist.mean
    middle, std = middle_and_std(vae, mean)
    return (mean - middle) / std * vae.config.scaling_factor
