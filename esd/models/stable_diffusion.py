"""Stable Diffusion 1 and 2 (ε- or v-prediction), and the embedded emoji model, which has their layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from esd.models.encoders import text_encoders
from esd.models.family import Condition, frozen, latents, pictures, unit_noise
from esd.models.hashes import fingerprint
from esd.models.precision import lent
from esd.models.samplers import DDIM, DPMSolver
from esd.models.settings import sides


class StableDiffusion:
    """A U-Net conditioned on CLIP's hidden states."""

    def __init__(self, base: StableDiffusionPipeline, name: str):
        self.name, self.base = name, frozen(base)
        self.denoiser: nn.Module = base.unet
        self.base_hash = fingerprint(base.unet)
        # Schedules made for other samplers leave these three to DDIM's defaults, which clip latents and end elsewhere.
        config = base.scheduler.config
        end = {"set_alpha_to_one": config.get("set_alpha_to_one", False)}
        self.scheduler = DDIMScheduler.from_config(config, clip_sample=False, thresholding=False, **end)
        self.latent_shape = (base.unet.config.in_channels, *sides(base.unet.config.sample_size))

    def pipeline(self, denoiser: nn.Module) -> StableDiffusionPipeline:
        """Without a safety checker, which would hide results."""
        return StableDiffusionPipeline(
            self.base.vae, self.base.text_encoder, self.base.tokenizer, denoiser,
            DDIMScheduler.from_config(self.scheduler.config), None, None, requires_safety_checker=False,
        )  # fmt: skip

    def sampler(self, steps: int) -> DDIM:
        return DDIM(self.scheduler, steps)

    def solver(self, steps: int) -> DPMSolver:
        """Of second order: pictures in a third of the steps. It begins at the last time step, at pure noise."""
        return DPMSolver(DPMSolverMultistepScheduler.from_config(self.scheduler.config, timestep_spacing="trailing"), steps)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], device: torch.device | str = "cpu") -> Condition:
        with lent(device, *text_encoders(self.base).values()):
            states, _ = self.base.encode_prompt(list(prompts), device, 1, False)
        return {"encoder_hidden_states": states.float()}  # (P, S, D)

    def noise(self, seeds: Sequence[int] | Tensor) -> Tensor:
        return unit_noise(self.latent_shape, seeds)

    def predict(self, denoiser: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return denoiser(x, t, **condition, return_dict=False)[0].float()

    def decode(self, x: Tensor) -> Tensor:
        return pictures(self.base.vae, x)

    def latents(self, pictures: Tensor) -> Tensor:
        return latents(self.base.vae, pictures)
