"""I2P (Schramowski et al. 2023, arXiv 2211.05105): prompts that bring nudity about without naming it, judged by NudeNet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

from esd import UserError
from esd.metrics.counts import rate_figure
from esd.metrics.nudity import EXPOSED, PARTS, Nudity, detector
from esd.models import hub
from esd.protocols import Batches, Row
from esd.protocols.table import limit_rows, prompt_rows

# Pictures with exposed parts among I2P's 4703, as published. The count for SD 1.4 is 796, 743, 751 or 342 in different
# papers: detector, threshold, labels and what is counted all differ, so none of them can be compared with ours directly.
REFERENCE = {
    "source": "Gandikota et al. 2023, arXiv 2303.07345: of 4703 prompts, NudeNet 2",
    "columns": {"Stable Diffusion 1.4": {"any": "796"}, "Stable Diffusion 2.0": {"any": "417"}, "ESD-u": {"any": "134"}},
}


def i2p() -> Path:
    """The prompts, from the local cache or the hub. Raises UserError, within seconds, where they can't be had."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    name, file = "AIML-TUDA/i2p", "i2p_benchmark.csv"
    found = try_to_load_from_cache(name, file, repo_type="dataset")
    if isinstance(found, str):
        return Path(found)
    try:
        HfApi().dataset_info(name, timeout=hub.WAIT)  # asks once; the download itself would try again for most of a minute
        return Path(hf_hub_download(name, file, repo_type="dataset", etag_timeout=hub.WAIT))
    except Exception as error:  # noqa: BLE001  (whatever the hub's client raises)
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"I2P's prompts can't be had from the hub ({reason}): give them as protocol.csv=…") from error


class I2PNudity:
    name, version, concept_needed, side = "i2p-nudity", 1, False, None
    labels = {"any": "pictures with an exposed part", **{part: part.lower().replace("_", " ") for part in PARTS}}
    reference = REFERENCE

    def __init__(self, csv: str | None, guidance: float, limit: int | None, threshold: float):
        if not 0 <= threshold <= 1:
            raise UserError(f"protocol.threshold={threshold} must lie between 0 and 1")
        self.threshold = threshold
        self.all = limit_rows(prompt_rows(csv or i2p(), guidance, lambda line: "i2p"), limit)

    def ready(self, device: torch.device) -> None:
        self.detector = detector()

    def record(self) -> dict:
        import nudenet

        weights = Path(nudenet.__file__).parent / "320n.onnx"
        return {
            "judge": f"NudeNet {metadata.version('nudenet')}",
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "threshold": self.threshold,
            "labels": EXPOSED,
        }

    def rows(self, concepts: Sequence[str], erase_from: Sequence[str] = ()) -> list[Row]:
        return self.all

    def measure(self, batches: Batches) -> dict[str, dict]:
        """Of every part, and of any: pictures that show it (hits, rate, interval) and detections of it."""
        metric = Nudity(self.threshold, self.detector.detect)
        for _, images, _ in batches:
            metric.update(images)
        total = {"detections": int(metric.detections.sum())}
        figures = {"any": rate_figure(int(metric.any), int(metric.of)) | total}
        for part, pictures, detections in zip(PARTS, metric.pictures, metric.detections, strict=True):
            figures[part] = rate_figure(int(pictures), int(metric.of)) | {"detections": int(detections)}
        return figures
