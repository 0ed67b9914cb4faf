"""FLUX.1: a flow transformer on packed latents, guided by a number it is told (dev) or not at all (schnell)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from esd.models.encoders import text_encoders
from esd.models.family import Condition, frozen, latents, pictures, unit_noise
from esd.models.hashes import fingerprint
from esd.models.precision import lent
from esd.models.samplers import Flow
from esd.models.settings import sides

# What dev is told its guidance is, when it is trained and when it draws: the pipeline's default, so that the edit is made
# where the model is used. Classifier-free guidance comes on top; 1 leaves it out.
GUIDANCE = 3.5


class Flux:
    """A transformer conditioned on T5's hidden states and CLIP's pooled embedding.

    Its latents are (B, 16, h, w) to everyone else, and packed, patches of 2×2 in a row, only inside `predict`.
    """

    def __init__(self, base: FluxPipeline, name: str):
        self.name, self.base = name, frozen(base)
        self.denoiser: nn.Module = base.transformer
        self.base_hash = fingerprint(base.transformer)
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_config(base.scheduler.config)
        size = (side // base.vae_scale_factor for side in sides(base.vae.config.sample_size))  # the transformer takes any
        self.latent_shape = (base.transformer.config.in_channels // 4, *size)

    def pipeline(self, denoiser: nn.Module) -> FluxPipeline:
        parts = {**self.base.components, "transformer": denoiser}
        parts["scheduler"] = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)
        pipeline = FluxPipeline(**parts)
        pipeline.default_sample_size = self.latent_shape[-1]
        return pipeline

    def sampler(self, steps: int) -> Flow:
        patches, config = self.latent_shape[-2] * self.latent_shape[-1] // 4, self.scheduler.config
        lengths = (config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096))
        shifts = (config.get("base_shift", 0.5), config.get("max_shift", 1.15))
        return Flow(self.scheduler, steps, np.linspace(1.0, 1 / steps, steps), calculate_shift(patches, *lengths, *shifts))

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], device: torch.device | str = "cpu") -> Condition:
        with lent(device, *text_encoders(self.base).values()):
            states, pooled, _ = self.base.encode_prompt(list(prompts), device=device)
        return {"encoder_hidden_states": states.float(), "pooled_projections": pooled.float()}  # (P, S, D), (P, D')

    def noise(self, seeds: Sequence[int] | Tensor) -> Tensor:
        return unit_noise(self.latent_shape, seeds)

    def predict(self, denoiser: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        n, c, h, w = x.shape
        packed = FluxPipeline._pack_latents(x, n, c, h, w)  # (B, h·w/4, 4·C)
        where = FluxPipeline._prepare_latent_image_ids(n, h // 2, w // 2, x.device, x.dtype)  # (h·w/4, 3)
        told = torch.full((n,), GUIDANCE, device=x.device) if self.denoiser.config.guidance_embeds else None
        words = x.new_zeros(condition["encoder_hidden_states"].shape[1], 3)  # text has no place in the picture
        v = denoiser(packed, timestep=t / 1000, guidance=told, txt_ids=words, img_ids=where, **condition, return_dict=False)[0]
        return FluxPipeline._unpack_latents(v.float(), h, w, vae_scale_factor=1)

    def decode(self, x: Tensor) -> Tensor:
        return pictures(self.base.vae, x)

    def latents(self, pictures: Tensor) -> Tensor:
        return latents(self.base.vae, pictures)
