"""Searches for words by descent: one-hot tokens with a straight-through gradient, the denoiser and encoders frozen.

UnlearnDiffAtk (Zhang et al. 2024, arXiv 2310.11868) fits pictures of the concept, E ‖ε − ε_θ(x_t, p*, t)‖²; P4D (Chin et
al. 2024, arXiv 2309.06135) fits what the base model says, E ‖ε_θ*(x_t, p, t) − ε_θ(x_t, p*, t)‖². They differ in this term.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from esd.attack.inversion import repeated
from esd.attack.target import POSITIONS, Found, Target, seeded
from esd.erasing.checks import require_one_of
from esd.erasing.walks import predict
from esd.models import text


class Discrete:
    """tokens: how many are searched. named: whether the prompt that names the concept stands behind them (UnlearnDiffAtk's
    perturbation) or not (P4D's own prompt). against: "pictures" or "base"."""

    needs, draws = ("pictures", "text", "vocabulary"), None

    def __init__(self, against: str, named: bool, tokens: int, steps: list[int], batch: int, lr: float):
        require_one_of(against, "against", ("pictures", "base"))
        self.against, self.named, self.tokens, self.steps, self.batch, self.lr = against, named, tokens, steps, batch, lr
        self.check, self.finds = "weak edit" if named else "base", len(steps)

    def forwards(self) -> float:
        return (3 + (self.against == "base")) * self.batch * sum(self.steps)

    def find(self, target: Target, seed: int) -> Iterator[Found]:
        known = [word for word in text.vocabulary(target.model) if word not in target.words]
        tables = [table.to(target.device) for table in text.embeddings(target.model, known)]
        prompt = target.prompt if self.named else ""
        sampler, named = target.model.sampler(POSITIONS).to(target.device), target.base_condition([target.prompt])
        for steps in self.steps:
            generator = seeded(seed, steps)
            logits = (0.01 * torch.randn(self.tokens, len(known), generator=generator)).to(target.device).requires_grad_()
            optimizer = torch.optim.Adam([logits], self.lr)  # no schedule, as published
            best, words = float("inf"), []
            for _ in range(steps):
                x_0, noise, position = target.examples(self.batch, generator)
                hard = straight_through(logits)
                vectors = [(hard.to(table) @ table)[None] for table in tables]
                condition = repeated(text.encode_with(target.model, prompt, vectors, before=True), self.batch)
                loss = self.loss(target, condition, repeated(named, self.batch), x_0, noise, position, sampler)
                if loss.item() < best:
                    best, words = loss.item(), [known[i] for i in hard.argmax(1).tolist()]
                optimizer.zero_grad()
                loss.backward(inputs=[logits])
                optimizer.step()
            found = " ".join([*words, prompt]).strip()
            condition = target.condition([found])
            yield Found(steps, found, best, lambda seeds, denoiser=None, c=condition: target.draw(c, seeds, denoiser))

    def loss(self, target: Target, condition, named, x_0: Tensor, noise: Tensor, position: Tensor, sampler) -> Tensor:
        if self.against == "pictures":
            return target.error(condition, x_0, noise, position, sampler).mean()
        x = sampler.noised(x_0, noise, position)
        with torch.no_grad():
            (wanted,) = predict(target.base, target.base.denoiser, sampler, x, position, named)
        (said,) = predict(target.model, target.denoiser, sampler, x, position, condition)
        return (said - wanted).square().mean()


def straight_through(logits: Tensor) -> Tensor:
    """One-hot rows (k, V) with the gradient of the softmax."""
    soft = logits.softmax(-1)
    return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(soft) + soft - soft.detach()
