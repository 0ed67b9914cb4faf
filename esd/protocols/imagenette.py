"""Objects: the erased class of Imagenette and the other nine, as a ResNet-50 sees them (ESD, section 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata

import torch

from esd import UserError
from esd.metrics.counts import rate_figure
from esd.metrics.objects import IMAGENETTE, Classified, resnet
from esd.protocols import Batches, Row
from esd.protocols.table import limit_rows, needed_column, prompt_rows, read_table


class Imagenette:
    name, version, concept_needed, side = "imagenette", 1, True, None
    labels = {"erased": "erased class recognised", "kept": "other classes recognised"}
    reference = {
        "source": "Gandikota et al. 2023, arXiv 2303.07345, mean over the ten classes",
        "columns": {
            "Stable Diffusion 1.4": {"erased": "78.2 %", "kept": "78.2 %"},
            "ESD-u": {"erased": "12.6 %", "kept": "63.2 %"},
        },
    }

    def __init__(self, csv: str | None, pictures: int, guidance: float, limit: int | None, seed: int):
        if csv is None:
            self.all = [Row(name, f"Image of {name}", seed + n, name, guidance) for name in IMAGENETTE for n in range(pictures)]
        else:
            key = needed_column(read_table(csv), csv, "class")

            def named(line: dict) -> str:
                if (name := line[key].strip().lower()) not in IMAGENETTE:
                    raise ValueError(f"class {name} is none of Imagenette's: {', '.join(IMAGENETTE)}")
                return name

            self.all = prompt_rows(csv, guidance, named, named)
        self.all = limit_rows(self.all, limit)

    def ready(self, device: torch.device) -> None:
        self.network = resnet().to(device)

    def record(self) -> dict:
        return {"judge": f"torchvision {metadata.version('torchvision')} ResNet-50 IMAGENET1K_V2, top 1"}

    def rows(self, concepts: Sequence[str], erase_from: Sequence[str] = ()) -> list[Row]:
        gone = {concept.lower().strip() for concept in concepts}
        if strange := gone - set(IMAGENETTE):
            raise UserError(f"protocol=imagenette measures {', '.join(IMAGENETTE)}: '{min(strange)}' is none of them")
        return [replace(row, group="erased" if row.subject in gone else "kept") for row in self.all]

    def measure(self, batches: Batches) -> dict[str, dict]:
        metrics: dict[tuple[str, str], Classified] = {}
        for rows, images, _ in batches:
            for key in dict.fromkeys((row.group, str(row.subject)) for row in rows):
                index = [i for i, row in enumerate(rows) if (row.group, row.subject) == key]
                metrics.setdefault(key, Classified(self.network)).update(images[index], [key[1]] * len(index))
        figures = {}
        for group in ("erased", "kept"):
            of = {name: (int(metric.hits), int(metric.of)) for (its, name), metric in metrics.items() if its == group}
            figures[group] = rate_figure(sum(h for h, _ in of.values()), sum(n for _, n in of.values())) | {"each": of}
        return figures
