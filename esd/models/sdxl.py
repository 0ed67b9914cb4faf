"""Stable Diffusion XL: two text encoders, a pooled embedding, and the picture's sizes as a condition (arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from torch import Tensor, nn

from esd.models.encoders import text_encoders
from esd.models.family import Condition, frozen, latents, pictures, unit_noise
from esd.models.hashes import fingerprint
from esd.models.precision import lent
from esd.models.samplers import Euler
from esd.models.settings import sides


class StableDiffusionXL:
    """A U-Net conditioned on the hidden states of two CLIPs, the second's pooled embedding, and six sizes."""

    def __init__(self, base: StableDiffusionXLPipeline, name: str):
        self.name, self.base = name, frozen(base)
        self.denoiser: nn.Module = base.unet
        self.base_hash = fingerprint(base.unet)
        self.scheduler = EulerDiscreteScheduler.from_config(base.scheduler.config)
        self.latent_shape = (base.unet.config.in_channels, *sides(base.unet.config.sample_size))

    def pipeline(self, denoiser: nn.Module) -> StableDiffusionXLPipeline:
        """Without a watermark, which a difference of pictures would show."""
        return StableDiffusionXLPipeline(
            self.base.vae, self.base.text_encoder, self.base.text_encoder_2, self.base.tokenizer, self.base.tokenizer_2,
            denoiser, EulerDiscreteScheduler.from_config(self.scheduler.config),
            force_zeros_for_empty_prompt=self.base.config.force_zeros_for_empty_prompt, add_watermarker=False,
        )  # fmt: skip

    def sampler(self, steps: int) -> Euler:
        return Euler(self.scheduler, steps)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], device: torch.device | str = "cpu") -> Condition:
        """∅ is zeros where the pipeline takes an absent negative prompt for zeros, which is how SDXL's base was trained
        without a prompt; the encoded empty text is something else to it."""
        with lent(device, *text_encoders(self.base).values()):
            states, _, pooled, _ = self.base.encode_prompt(list(prompts), device=device, do_classifier_free_guidance=False)
        if self.base.config.force_zeros_for_empty_prompt:
            given = torch.tensor([prompt != "" for prompt in prompts], device=states.device)
            states, pooled = states * given[:, None, None], pooled * given[:, None]
        high, wide = (side * self.base.vae_scale_factor for side in self.latent_shape[1:])
        sizes = torch.tensor([[high, wide, 0, 0, high, wide]] * len(prompts), dtype=torch.float32, device=states.device)
        return {"encoder_hidden_states": states.float(), "text_embeds": pooled.float(), "time_ids": sizes}  # (P, …)

    def noise(self, seeds: Sequence[int] | Tensor) -> Tensor:
        return unit_noise(self.latent_shape, seeds)

    def predict(self, denoiser: nn.Module, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        added = {"text_embeds": condition["text_embeds"], "time_ids": condition["time_ids"]}
        states = condition["encoder_hidden_states"]
        return denoiser(x, t, states, added_cond_kwargs=added, return_dict=False)[0].float()

    def decode(self, x: Tensor) -> Tensor:
        return pictures(self.base.vae, x)

    def latents(self, pictures: Tensor) -> Tensor:
        return latents(self.base.vae, pictures)
