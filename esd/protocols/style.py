"""Artists: how far pictures of the erased artist, and of the others, moved from the base model's (ESD, section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata

import torch

from esd import UserError
from esd.metrics.counts import mean_figure
from esd.metrics.quality import lpips
from esd.protocols import Batches, Row
from esd.protocols.table import limit_rows, needed_column, prompt_rows, read_table


class Style:
    name, version, concept_needed, side = "style", 1, True, None
    labels = {
        "erased_lpips": "LPIPS to the base, erased artist (far is gone)",
        "kept_lpips": "LPIPS to the base, other artists (near is kept)",
    }
    reference: dict = {}

    def __init__(self, csv: str, guidance: float, limit: int | None):
        key = needed_column(read_table(csv), csv, "artist")
        self.all = limit_rows(prompt_rows(csv, guidance, lambda line: line[key].strip(), lambda line: line[key].strip()), limit)

    def ready(self, device: torch.device) -> None:
        self.lpips = lpips().to(device)

    def record(self) -> dict:
        packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("torchmetrics", "torchvision"))
        return {"judge": f"LPIPS (AlexNet), {packages}"}

    def rows(self, concepts: Sequence[str], erase_from: Sequence[str] = ()) -> list[Row]:
        """An artist counts as erased if a concept names them, or they a concept: "Van Gogh" and "Vincent van Gogh"."""
        gone = [concept.lower().strip() for concept in concepts]

        def erased(artist: str) -> bool:
            return any(artist.lower() in concept or concept in artist.lower() for concept in gone)

        made = [replace(row, group="erased" if erased(str(row.subject)) else "kept") for row in self.all]
        if not any(row.group == "erased" for row in made):
            known = ", ".join(sorted({str(row.subject) for row in self.all})[:8])
            raise UserError(f"no line of protocol.csv is about '{', '.join(concepts)}': its artists are {known}")
        return made

    def measure(self, batches: Batches) -> dict[str, dict]:
        values: dict[str, list[float]] = {"erased": [], "kept": []}
        for rows, images, base in batches:
            self.lpips.reset()
            self.lpips.update(images, base)
            for row, distance in zip(rows, self.lpips.compute().tolist(), strict=True):
                values[row.group].append(distance)
        return {f"{group}_lpips": mean_figure(of) for group, of in values.items()}
