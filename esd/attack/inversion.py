"""Concept inversion (Pham et al. 2024, arXiv 2308.01508): a conditioning found by descent on pictures of the concept.

min over v of E ‖ε − ε_θ(x_t, v, t)‖², the denoiser frozen. v is one word vector as there, or several; or the whole
conditioning, every text state of it free, which bounds what any text could do.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from esd.attack.target import POSITIONS, Found, Target, adam, seeded
from esd.models import text
from esd.models.family import Condition


class Inversion:
    """vectors: free word vectors, or None for the whole conditioning. steps: a run with a schedule of its own for each."""

    check, draws = "base", None

    def __init__(self, vectors: int | None, prompt: str, steps: list[int], batch: int, lr: float):
        """prompt: the words before free vectors."""
        self.vectors, self.prompt, self.steps, self.batch, self.lr = vectors, prompt, steps, batch, lr
        self.needs = ("pictures",) if vectors is None else ("pictures", "text")
        self.finds = len(steps)

    def forwards(self) -> float:
        return 3 * self.batch * sum(self.steps)

    def find(self, target: Target, seed: int) -> Iterator[Found]:
        sampler = target.model.sampler(POSITIONS).to(target.device)
        for steps in self.steps:
            generator = seeded(seed, steps)
            free, condition = self.start(target, generator)
            optimizer, schedule = adam(free, self.lr, steps)
            for _ in range(steps):
                x_0, noise, position = target.examples(self.batch, generator)
                loss = target.error(repeated(condition(), self.batch), x_0, noise, position, sampler).mean()
                optimizer.zero_grad()
                loss.backward(inputs=free)
                optimizer.step()
                schedule.step()
            with torch.no_grad():
                found = {name: tensor.detach().clone() for name, tensor in condition().items()}
            yield Found(steps, "", loss.item(), lambda seeds, denoiser=None, found=found: target.draw(found, seeds, denoiser))

    def start(self, target: Target, generator: torch.Generator) -> tuple[list[Tensor], callable]:
        """What is free, and the condition of one row that it makes: at first the mean of what other words make."""
        if self.vectors is not None:
            free = []
            for tokenizer, encoder in text.encoders(target.model):
                table = encoder.get_input_embeddings().weight.detach().float()[: len(tokenizer)]
                spread = torch.randn(1, self.vectors, table.shape[1], generator=generator) * table.std(0).cpu()
                free.append((table.mean(0).cpu() + 0.3 * spread).to(target.device).requires_grad_())
            return free, lambda: text.encode_with(target.model, self.prompt, free)
        every = target.condition(target.others)
        mean = {name: tensor.mean(0, keepdim=True) for name, tensor in every.items()}
        free = {
            name: (mean[name] + 0.1 * tensor.std(0) * torch.randn(mean[name].shape, generator=generator).to(tensor))
            for name, tensor in every.items()
            if (tensor != tensor[:1]).any()  # what differs between prompts is text; sizes and position ids do not
        }
        free = {name: tensor.detach().requires_grad_() for name, tensor in free.items()}
        return list(free.values()), lambda: {**mean, **free}


def repeated(condition: Condition, n: int) -> Condition:
    """A condition of one row, n times."""
    return {name: tensor.expand(n, *tensor.shape[1:]) for name, tensor in condition.items()}
