"""An edit as a technique of the public benchmark eval-unlearn, found there by its entry point (group
eval_unlearn.techniques) and never imported here."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image


class ErasedModel:
    """edit: the file or the run's folder. model: a folder, a checkpoint or a name on the hub; nothing: the embedded model."""

    def __init__(
        self, edit: str, model: str | None = None, steps: int = 50, guidance: float = 7.5, device: str = "cpu",
        allow_pickle: bool = False, **_: object,
    ):  # fmt: skip
        """What else the benchmark passes to every technique is of no use here."""
        from esd import models
        from esd.erasing.edit import apply_edit, read_edit

        made = read_edit(edit, allow_pickle)
        self.model = models.load(model, "emoji" if model is None else model)
        apply_edit(self.model.denoiser, made)
        self.model.base.to(device)
        self.steps, self.guidance = steps, guidance

    def generate(self, prompts: Sequence[str], seed: int | None = None, **_: object) -> list[Image.Image]:
        """A picture for each prompt; picture i has the noise of seed + i."""
        from esd.sample.pictures import to_image
        from esd.sample.sampling import sample

        seeds = range(seed or 0, (seed or 0) + len(prompts))
        look = {"steps": self.steps, "guidance": self.guidance, "batch": 8}
        return [to_image(picture) for picture in sample(self.model, self.model.denoiser, prompts, seeds, **look)]
