"""CLIP as a zero-shot judge (Radford et al. 2021, arXiv 2103.00020): is a concept seen in a picture?"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esd import UserError
from esd.models import hub

CLIP = "openai/clip-vit-large-patch14"
REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"  # of that; another name is taken as it is newest
FILES = ("config.json", "preprocessor_config.json", "tokenizer*.json", "vocab.json", "merges.txt", "model.safetensors")


def clip_folder(clip: str, option: str = "protocol.clip") -> Path:
    """The folder of a CLIP model: one here, or from the hub by its name. Raises UserError, within seconds, where it cannot
    be had. option: what names it."""
    folder = Path(clip).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download, try_to_load_from_cache

        revision = REVISION if clip == CLIP else None
        found = try_to_load_from_cache(clip, "model.safetensors", revision=revision) if clip.count("/") == 1 else None
        if isinstance(found, str):
            folder = Path(found).parent
        elif clip.count("/") == 1:
            here = f"models/{clip.split('/')[1]}"
            try:
                hub.require_reachable(clip, f"--include {' '.join(map(repr, FILES))}", Path(here), option)
            except UserError as error:
                raise UserError(f"{error}, as {option}={here}") from error
            folder = Path(snapshot_download(clip, revision=revision, allow_patterns=list(FILES), etag_timeout=hub.WAIT))
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{option}={clip} is no CLIP model: it has no {name}")
    return folder


class Clip(nn.Module):
    """A CLIP model with its own tokenizer and its own way of looking at pictures.

    The resizing is torch's, whatever else is installed: the same picture has the same features on any machine.
    """

    def __init__(self, folder: Path):
        super().__init__()
        from transformers import AutoTokenizer, CLIPModel

        self.folder = folder
        try:
            self.clip = CLIPModel.from_pretrained(folder, use_safetensors=True).eval().requires_grad_(False)
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            look = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
            for name in ("image_mean", "image_std"):
                self.register_buffer(name, torch.tensor(look[name]).view(3, 1, 1))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"protocol.clip={folder} cannot be read as a CLIP model: {error}") from error
        self.side = self.clip.config.vision_config.image_size

    @torch.no_grad()
    def pictures(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] → unit features (B, D)."""
        seen = looked_at(images, self.side, self.image_mean, self.image_std)
        return F.normalize(self.clip.get_image_features(pixel_values=seen).pooler_output.float(), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit features (n, D). What is longer than the model's 77 tokens is cut."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        tokens = tokens.to(self.image_mean.device)
        return F.normalize(self.clip.get_text_features(**tokens).pooler_output.float(), dim=-1)

    @property
    def length(self) -> int:
        return self.clip.config.text_config.max_position_embeddings

    def record(self) -> dict:
        """Which weights these are."""
        snapshot = self.folder.name if self.folder.parent.name == "snapshots" else None
        return {"revision": snapshot, "weights_sha256": weights_sha256(self.folder)}


def looked_at(images: Tensor, side: int, mean: Tensor, std: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as CLIP takes them, (B, 3, side, side): the shorter side resized, the middle, and each
    colour's mean and spread (3, 1, 1) taken out."""
    high, wide = images.shape[-2:]
    size = (max(side, round(high * side / min(high, wide))), max(side, round(wide * side / min(high, wide))))
    resized = F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return (resized[..., top : top + side, left : left + side] - mean) / std


@functools.cache
def weights_sha256(folder: Path) -> str:
    with open(folder / "model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lead(concept: Tensor, alternatives: Tensor) -> Tensor:
    """By how much the concept's logit leads over the best of the alternatives': (n,) and (n, K) → (n,)."""
    return concept - alternatives.max(1).values


def calibrated_margin(shows: Tensor, other: Tensor) -> float:
    """The lead from which on a picture counts as showing the concept: the one that tells best between pictures that were
    asked for it and pictures of other things, both the base model's (the two rates of being right weigh the same; of equally
    good ones the middle of the widest gap). 0 where one of the two is missing."""
    if not len(shows) or not len(other):
        return 0.0
    values = torch.cat([shows, other]).double().unique()  # ascending
    between = (values[1:] + values[:-1]) / 2
    if not len(between):
        return float(values[0])  # all alike: everything is called shown
    right = [((shows > m).double().mean() + (other <= m).double().mean()).item() for m in between]
    gaps = values[1:] - values[:-1]
    best = max(range(len(between)), key=lambda i: (round(right[i], 9), gaps[i].item()))
    return float(between[best])
