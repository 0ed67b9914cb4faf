"""The embedded model's autoencoder: 64×64×3 pictures to 16×16×4 latents and back."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

LATENT_CHANNELS = 4


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=16,
        mid_block_add_attention=False,
        sample_size=64,
        scaling_factor=1.0,  # whiten() below makes it so
    )


def edges(x: Tensor) -> Tensor:
    """Differences of neighbouring pixels, both ways, flattened: what makes an outline sharp."""
    return torch.cat([(x[..., 1:] - x[..., :-1]).flatten(1), (x[..., 1:, :] - x[..., :-1, :]).flatten(1)], dim=1)


class VAETraining(pl.LightningModule):
    """Reconstruction in pixels and in edges, and a slight pull of the latents towards a unit Gaussian."""

    def __init__(self, vae: AutoencoderKL, lr: float, steps: int):
        super().__init__()
        self.vae, self.lr, self.steps = vae, lr, steps

    def training_step(self, images: Tensor, _: int) -> Tensor:
        x = images.float() / 127.5 - 1  # (B, 3, 64, 64) in [-1, 1]
        posterior = self.vae.encode(x).latent_dist
        y = self.vae.decode(posterior.sample()).sample.float()
        loss = F.l1_loss(y, x) + F.mse_loss(y, x) + F.l1_loss(edges(y), edges(x)) + 1e-6 * posterior.kl().mean()
        self.log("psnr", 10 * torch.log10(4 / F.mse_loss(y, x).detach()), prog_bar=True)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.vae.parameters(), self.lr, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, self.steps, pct_start=0.05)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, batch: int = 256) -> Tensor:
    """The mean latents of uint8 pictures, in 16 bits on the CPU: (…, 3, 64, 64) → (…, 4, 16, 16)."""
    parts = images.flatten(0, -4).split(batch)
    latents = [vae.encode(part.to(vae.device).float() / 127.5 - 1).latent_dist.mean.half().cpu() for part in parts]
    return torch.cat(latents).unflatten(0, images.shape[:-3])


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, batch: int = 256) -> Tensor:
    """Latents as pictures, uint8 on the CPU: (N, 4, 16, 16) → (N, 3, 64, 64)."""
    pictures = [
        vae.decode(part.to(vae.device)).sample.add(1).mul(127.5).clamp(0, 255).byte().cpu() for part in latents.split(batch)
    ]
    return torch.cat(pictures)


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: Tensor) -> None:
    """Give each latent channel mean 0 and variance 1 over these pictures, by folding the change into the two 1×1
    convolutions beside the latents. The reconstructions stay what they were; `scaling_factor` 1 is then right."""
    latents = encode(vae, images).float().to(vae.device)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    out, back = vae.quant_conv, vae.post_quant_conv
    n = len(mean)  # the first n outputs are the mean, the next n the log-variance
    out.bias[:n] = (out.bias[:n] - mean) / std
    out.weight[:n] /= std[:, None, None, None]
    out.bias[n:] -= 2 * std.log()
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= std[None, :, None, None]
