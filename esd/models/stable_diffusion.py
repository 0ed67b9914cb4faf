"""Stable Diffusion 1 and 2, and the embedded emoji model, which has their layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from esd.samplers import DDIM

Condition = dict[str, Tensor]  # what a prompt is to the denoiser; every tensor has the prompts first


class StableDiffusion:
    """A U-Net conditioned on CLIP's hidden states, and the ways in and out of its latents."""

    def __init__(self, pipeline: StableDiffusionPipeline, name: str):
        self.name = name
        self.denoiser: nn.Module = pipeline.unet.requires_grad_(False).eval()
        self.vae = pipeline.vae.requires_grad_(False).eval()
        self.text_encoder = pipeline.text_encoder.requires_grad_(False).eval()
        self.tokenizer = pipeline.tokenizer
        self.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        size = self.denoiser.config.sample_size
        self.latent_shape = (self.denoiser.config.in_channels, size, size)

    def pipeline(self, denoiser: nn.Module) -> StableDiffusionPipeline:
        """The whole as a diffusers pipeline around this denoiser; without a safety checker, which would hide results."""
        return StableDiffusionPipeline(
            self.vae, self.text_encoder, self.tokenizer, denoiser, self.scheduler, None, None, requires_safety_checker=False
        )

    def sampler(self, steps: int) -> DDIM:
        return DDIM(self.scheduler, steps)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Condition:
        """The prompts as a condition; "" is the null prompt ∅."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        masked = getattr(self.text_encoder.config, "use_attention_mask", None)  # as diffusers' pipeline does
        mask = tokens.attention_mask.to(self.text_encoder.device) if masked else None
        states = self.text_encoder(tokens.input_ids.to(self.text_encoder.device), attention_mask=mask)
        return {"encoder_hidden_states": states.last_hidden_state.float()}  # (P, S, D)

    def noise(self, seeds: Sequence[int] | Tensor) -> Tensor:
        """Unit noise, each row a function of its own seed alone: (B, C, h, w) float32 on the CPU."""
        return torch.stack(
            [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        )

    def predict(self, denoiser: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the denoiser says of x (B, C, h, w) at time steps t (B,): ε or v, of x's shape, float32."""
        return denoiser(x, t, **condition, return_dict=False)[0].float()

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Latents (B, C, h, w) → pictures (B, 3, H, W) in [0, 1]."""
        x = x.to(self.vae.device, self.vae.dtype) / self.vae.config.scaling_factor
        return (self.vae.decode(x).sample.float() / 2 + 0.5).clamp(0, 1)
