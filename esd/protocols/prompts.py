"""Any prompts, from a CSV file: pictures and grids, and how far they moved; nobody judges them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from esd.metrics.counts import mean_figure
from esd.metrics.paired import PairedDistance
from esd.protocols import Batches, Row
from esd.protocols.table import limit_rows, prompt_rows


class Prompts:
    name, version, concept_needed, side = "prompts", 1, False, None
    labels = {"pixels": "pixels moved (root mean square)"}
    reference: dict = {}

    def __init__(self, csv: str, guidance: float, limit: int | None):
        self.all = limit_rows(prompt_rows(csv, guidance, lambda line: "all"), limit)

    def ready(self, device: torch.device) -> None:
        pass

    def record(self) -> dict:
        return {"judge": None}

    def rows(self, concepts: Sequence[str], erase_from: Sequence[str] = ()) -> list[Row]:
        return self.all

    def measure(self, batches: Batches) -> dict[str, dict]:
        pixels = PairedDistance()
        for _, images, base in batches:
            pixels.update(images, base)
        return {"pixels": mean_figure(pixels.distances().tolist())}
