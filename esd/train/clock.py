"""How long things will take, from a few forwards of the run's own model on its own device."""

from __future__ import annotations

import functools
import time

import torch
from torch import nn

from esd.erasing.walks import predict
from esd.models.family import Condition, Model
from esd.models.samplers import Sampler
from esd.sample.sampling import pictures_at_once


class Clock:
    """Times forwards of a denoiser (each size once) and the decoding of a picture.

    condition: of one prompt, on the denoiser's device
    """

    def __init__(self, model: Model, denoiser: nn.Module, sampler: Sampler, condition: Condition):
        self.model, self.denoiser, self.sampler, self.condition = model, denoiser, sampler, condition
        self.device = next(iter(condition.values())).device
        self.seconds_of_forward(1)  # the first is a warm-up
        self.seconds_of_forward.cache_clear()

    def waited(self) -> float:
        """Now, with all that the device was told to do done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @functools.lru_cache  # noqa: B019  (it lives as long as the announcement)
    @torch.inference_mode()
    def seconds_of_forward(self, n: int) -> float:
        """Of n latents at once."""
        rows = torch.zeros(n, dtype=torch.int64, device=self.device)
        x = self.model.noise(rows.cpu()).to(self.device)
        condition = {name: tensor.expand(n, *tensor.shape[1:]) for name, tensor in self.condition.items()}
        started = self.waited()
        predict(self.model, self.denoiser, self.sampler, x, rows, condition)
        return self.waited() - started

    @functools.lru_cache  # noqa: B019
    @torch.inference_mode()
    def seconds_of_decoding(self) -> float:
        x = self.model.noise([0]).to(self.device)
        started = self.waited()
        self.model.decode(x)
        return self.waited() - started

    def drawing(self, pictures: int, steps: int) -> float:
        """Seconds that so many pictures take, with guidance."""
        if not pictures:
            return 0.0
        at_once = min(pictures_at_once(self.model), pictures)
        return pictures * (steps * self.seconds_of_forward(2 * at_once) / at_once + self.seconds_of_decoding())
