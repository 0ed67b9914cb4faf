"""Stable Diffusion 3 and 3.5: a flow transformer over pictures and text together (Esser et al. 2024, arXiv 2403.03206)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from torch import Tensor, nn

from esd.models.encoders import text_encoders
from esd.models.family import Condition, frozen, latents, pictures, unit_noise
from esd.models.hashes import fingerprint
from esd.models.precision import lent
from esd.models.samplers import Flow
from esd.models.settings import sides


class StableDiffusion3:
    """A transformer conditioned on two CLIPs and T5, one after the other in a sequence, and the CLIPs' pooled embeddings."""

    def __init__(self, base: StableDiffusion3Pipeline, name: str):
        self.name, self.base = name, frozen(base)
        self.denoiser: nn.Module = base.transformer
        self.base_hash = fingerprint(base.transformer)
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_config(base.scheduler.config)
        self.latent_shape = (base.transformer.config.in_channels, *sides(base.transformer.config.sample_size))

    def pipeline(self, denoiser: nn.Module) -> StableDiffusion3Pipeline:
        parts = {**self.base.components, "transformer": denoiser}
        parts["scheduler"] = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)
        return StableDiffusion3Pipeline(**parts)

    def sampler(self, steps: int) -> Flow:
        patches = self.latent_shape[-2] * self.latent_shape[-1] // self.denoiser.config.patch_size**2
        config = self.scheduler.config
        lengths = (config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096))
        shifts = (config.get("base_shift", 0.5), config.get("max_shift", 1.16))
        mu = calculate_shift(patches, *lengths, *shifts) if config.use_dynamic_shifting else None
        return Flow(self.scheduler, steps, mu=mu)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], device: torch.device | str = "cpu") -> Condition:
        """A pipeline without T5 has zeros in its place, as it was trained to do without it."""
        with lent(device, *text_encoders(self.base).values()):
            states, _, pooled, _ = self.base.encode_prompt(list(prompts), None, None, device, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": states.float(), "pooled_projections": pooled.float()}  # (P, S, D), (P, D')

    def noise(self, seeds: Sequence[int] | Tensor) -> Tensor:
        return unit_noise(self.latent_shape, seeds)

    def predict(self, denoiser: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return denoiser(hidden_states=x, timestep=t, **condition, return_dict=False)[0].float()

    def decode(self, x: Tensor) -> Tensor:
        return pictures(self.base.vae, x)

    def latents(self, pictures: Tensor) -> Tensor:
        return latents(self.base.vae, pictures)
