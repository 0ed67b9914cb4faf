"""Everything else: are pictures of ordinary captions still good (FID, KID), and still of their captions (CLIP score)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from esd import UserError
from esd.metrics.counts import mean_figure
from esd.metrics.quality import CLIP, clip_score, fid, kid
from esd.protocols import Batches, Row
from esd.protocols.table import limit_rows, prompt_rows

REFERENCE = {
    "source": "Gandikota et al. 2023, arXiv 2303.07345, COCO-30k",
    "columns": {"Stable Diffusion 1.4": {"fid": "14.50"}, "ESD-u": {"fid": "13.68"}},
}


class Coco:
    name, version, concept_needed, side = "coco", 1, False, None
    labels = {"clip": "CLIP score", "fid": "FID", "kid": "KID"}
    reference = REFERENCE

    def __init__(self, csv: str, real: str | None, guidance: float, limit: int | None):
        self.all = limit_rows(prompt_rows(csv, guidance, lambda line: "coco"), limit)
        self.real = None if real is None else Path(real).expanduser()
        if len(self.all) < 2:
            raise UserError("protocol=coco needs 2 captions or more: FID compares distributions")
        if self.real and not self.real.is_dir():
            raise UserError(f"protocol.real={self.real} is no folder: give one with real pictures, or leave it out")
        known = (".png", ".jpg", ".jpeg", ".webp")
        self.photographs = sorted(p for p in self.real.iterdir() if p.suffix.lower() in known) if self.real else []
        if self.real and len(self.photographs) < 2:
            raise UserError(f"protocol.real={self.real} holds {len(self.photographs)} pictures: FID needs 2 or more")

    def ready(self, device: torch.device) -> None:
        subset = min(1000, len(self.all), len(self.photographs) if self.real else len(self.all))
        self.clip, self.fid, self.kid = (metric.to(device) for metric in (clip_score(), fid(), kid(subset)))

    def record(self) -> dict:
        against = str(self.real) if self.real else "the base model's pictures"
        return {"judge": f"InceptionV3 (torch-fidelity {metadata.version('torch-fidelity')}), {CLIP}", "against": against}

    def rows(self, concepts: Sequence[str], erase_from: Sequence[str] = ()) -> list[Row]:
        return self.all

    def pictures(self) -> Iterator[Tensor]:
        """The real pictures, each (1, 3, 299, 299) in [0, 1]."""
        for path in self.photographs:
            pixels = np.asarray(Image.open(path).convert("RGB").resize((299, 299), Image.Resampling.BICUBIC))
            yield torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255

    def measure(self, batches: Batches) -> dict[str, dict]:
        scores, n = [], 0
        for metric in (self.clip, self.fid, self.kid):
            metric.reset()
        for photograph in self.pictures() if self.real else []:
            for metric in (self.fid, self.kid):
                metric.update(photograph.to(metric.device), real=True)
        for rows, images, base in batches:
            scores += [float(self.clip(i.mul(255).round().byte(), row.prompt)) for row, i in zip(rows, images, strict=True)]
            for metric in (self.fid, self.kid):
                metric.update(images, real=False)
                if not self.real:
                    metric.update(base, real=True)
            n += len(rows)
        mean, _ = self.kid.compute()  # the spread is of subsets, which with few pictures are all the same ones
        return {
            "clip": mean_figure(scores),
            "fid": {"mean": float(self.fid.compute()), "of": n, "interval": None},
            "kid": {"mean": float(mean), "of": n, "interval": None},
        }
