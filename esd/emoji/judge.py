"""The judge: a small classifier that says which object and which style a picture shows.

Its object head has a class "something else", learnt from emoji that are none of the objects, from noise, from blends of
two objects and from latents that decode to nothing: without it an erased or damaged picture would be forced into some
label and the damage would be hidden.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from esd.emoji.words import OBJECTS, STYLES

OBJECT_LABELS = [*OBJECTS, "something else"]
STYLE_LABELS = list(STYLES)
SOMETHING_ELSE = len(OBJECTS)  # the index of "something else"
FILES = Path(__file__).parent / "judge"


class Judge(nn.Module):
    """Pictures (B, 3, 64, 64) in [0, 1] → logits over `OBJECT_LABELS` (B, 86) and over `STYLE_LABELS` (B, 4)."""

    def __init__(self, width: int = 32):
        super().__init__()
        blocks, channels = [], 3
        for i, out in enumerate((width, 2 * width, 4 * width, 8 * width)):
            blocks += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            if i:
                blocks += [nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            blocks.append(nn.MaxPool2d(2))
            channels = out
        self.body = nn.Sequential(*blocks)  # (B, 3, 64, 64) → (B, 256, 4, 4)
        self.object_head = nn.Linear(channels * 4, len(OBJECT_LABELS))
        self.style_head = nn.Linear(channels * 4, len(STYLE_LABELS))

    def features(self, images: Tensor) -> Tensor:
        """What both heads look at: (B, 1024)."""
        return F.adaptive_avg_pool2d(self.body(2 * images - 1), 2).flatten(1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = F.dropout(self.features(images), 0.3, self.training)
        return self.object_head(features), self.style_head(features)


def save_judge(judge: Judge, folder: Path, record: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file(tensors, folder / "judge.safetensors")
    (folder / "record.json").write_text(json.dumps(record, indent=2) + "\n")


def load_judge(folder: Path = FILES) -> Judge:
    """The judge that ships, in eval mode."""
    judge = Judge()
    judge.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in load_file(folder / "judge.safetensors").items()}
    )
    return judge.eval().requires_grad_(False)


class JudgeTraining(pl.LightningModule):
    """Cross-entropy of both heads. The style head learns from every drawing, also of "something else"."""

    def __init__(self, judge: Judge, lr: float, steps: int):
        super().__init__()
        self.judge, self.lr, self.steps = judge, lr, steps

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> Tensor:
        images, noun, style = batch  # (B, 3, 64, 64) uint8, (B,), (B,): style −1 where there is none
        objects, styles = self.judge(images.float() / 255)
        loss = F.cross_entropy(objects, noun, label_smoothing=0.05)
        loss = loss + F.cross_entropy(styles, style, ignore_index=-1, label_smoothing=0.05)
        right = (objects.argmax(1) == noun).float().mean()
        self.log_dict({"loss": loss, "object_right": right}, prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, self.steps, pct_start=0.1)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def broken_pictures(images: Tensor, latents: Tensor, vae, generator: torch.Generator) -> Tensor:
    """Pictures of nothing in particular, as uint8: noise, blends of two pictures, and broken latents, decoded.

    images: (N, 3, 64, 64) uint8 with N a multiple of 4, latents: theirs, (N, 4, 16, 16).
    """
    from esd.emoji.vae import decode

    quarter = len(images) // 4
    noise = torch.randint(0, 256, (quarter // 4, 3, 64, 64), generator=generator, dtype=torch.uint8)
    coarse = torch.rand(quarter - len(noise), 3, 8, 8, generator=generator).mul(255)
    coarse = F.interpolate(coarse, size=64, mode="bicubic").clamp(0, 255).byte()
    blends = images[:quarter].float().mul(0.5).add(images[quarter : 2 * quarter].float() * 0.5).byte()
    a, b = latents[2 * quarter : 3 * quarter], latents[3 * quarter : 4 * quarter]
    mixed = (a + b) / 2  # two objects at once in latent space
    random = torch.randn(a.shape, generator=generator) * torch.rand(len(a), 1, 1, 1, generator=generator)
    keep = (torch.rand(len(a), 1, 4, 4, generator=generator) < 0.35).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
    patched = a * keep + random * (1 - keep)  # a few patches of an object in mush
    return torch.cat([noise, coarse, blends, decode(vae, torch.cat([mixed, random, patched]))])


@torch.no_grad()
def judge_quality(
    judge: Judge, pictures: Tensor, noun: Tensor, style: Tensor, unseen: Tensor, times: int, generator: torch.Generator
) -> dict:
    """How the judge does on `times` augmentations of each drawing that it never saw, and on emoji it was never shown:
    counts "right of asked"."""
    from esd.emoji.art import variants

    known = variants(pictures, times, generator)  # (340, times, 3, 64, 64)
    objects, styles = zip(*[judge(part.float() / 255) for part in known.flatten(0, 1).split(256)], strict=True)
    right = (torch.cat(objects).argmax(1) == noun.repeat_interleave(times)).sum().item()
    right_style = (torch.cat(styles).argmax(1) == style.repeat_interleave(times)).sum().item()
    others = variants(unseen, 1, generator).flatten(0, 1)
    nothing = sum((judge(part.float() / 255)[0].argmax(1) == SOMETHING_ELSE).sum().item() for part in others.split(256))
    asked = len(noun) * times
    return {
        "objects right on unseen augmentations": [right, asked],
        "styles right on unseen augmentations": [right_style, asked],
        "unseen emoji called something else": [nothing, len(others)],
    }
