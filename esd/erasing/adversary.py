"""Adversaries: conditionings q that still bring the concept back, each of which is erased beside it.

    inner   q ← q − a · g / rms(g),   g = ∇_q ‖ ε_θ(x_t, q, t) − ε_θ*(x_t, c, t) ‖²,   a = STEP · rms(c)
    outer   adds share · ‖ ε_θ(x_t, q, t) − ε_θ*(x_t, f, t) ‖² to an example's loss

The inner problem is AdvUnlearn's (Zhang et al., NeurIPS 2024, arXiv 2405.15234), which walks anew for every one of its attack
steps. Here every place of the batch keeps a q for each concept, beside the walk that it holds (trajectories.py): x_t and
ε_θ*(x_t, c, t) are at hand at every step. The student is to answer q as θ* answers f, the null prompt unless erase_from is
given: pushed on to ε̂ it loses more of the other prompts for no less of the concept. q starts where no text names the concept,
at the mean of other prompts and a little beside it, and outlives its walks: in the second it is there from pure noise on, where
a picture's object is decided. Of a conditioning the text states move; what else a family needs (pooled text, sizes) is the
concept's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esd.erasing.checks import require_at_least
from esd.erasing.concepts import Draw
from esd.erasing.prompts import PromptTable
from esd.erasing.walks import predict
from esd.models.family import Condition, Model, unit_noise
from esd.models.samplers import Sampler

TEXT = "encoder_hidden_states"  # the text states, in every family's condition
STEP = 0.1  # of q, as a part of the concept's own size
NEAR = 0.1  # of the spread between other prompts: how far from their mean q starts
OWN_SEED = 0x1E3779B97F4A7C15  # by which q's noise is another than its walk's


@dataclass(frozen=True)
class Robust:
    """share: of the loss at q, beside c's 1. inner: steps of q before each of the student's. others: prompts at whose mean q
    starts."""

    share: float
    inner: int
    others: Sequence[str]

    def __post_init__(self):
        require_at_least(vars(self), "robust.", share=0.0, inner=1)

    def record(self) -> dict:
        return {"share": float(self.share), "inner": self.inner}


def rms(x: Tensor) -> Tensor:
    """Of each row (B, S, D): (B, 1, 1)."""
    return x.square().mean((1, 2), keepdim=True).sqrt()


class Adversary:
    """q (B, K, S, D): of the B examples that erase, which stand first in a batch, for each of K concepts; on one device.

    It has no randomness but the first draw's: a checkpoint holds q alone.
    """

    def __init__(
        self, model: Model, student: nn.Module, sampler: Sampler, prompts: PromptTable, robust: Robust, batch: int,
        concepts: int,
    ):  # fmt: skip
        self.model, self.student, self.sampler, self.prompts = model, student, sampler, prompts
        self.share, self.inner, self.batch, self.concepts = robust.share, robust.inner, batch, concepts
        states = model.encode(list(robust.others), prompts.c.device)[TEXT].detach()  # (n, S, D)
        self.mean, self.spread = states.mean(0), states.std(0, unbiased=False)  # (S, D)
        self.q: Tensor | None = None

    def error(self, draw: Draw, x_t: Tensor, eps_c: Tensor, eps_f: Tensor) -> Tensor:
        """share · ‖ε_θ(x_t, q, t) − ε_θ*(x_t, f, t)‖² at this step's q, averaged over each example; nothing where one
        preserves: (B + …,).

        x_t, eps_c, eps_f: the step's, all (B + …, C, h, w)."""
        erases, given = slice(self.batch), len(x_t)
        draw, x_t = Draw(*(part[erases] for part in draw)), x_t[erases]
        eps_c, eps_f = eps_c[erases].clone(), eps_f[erases].clone()  # autograd may keep them
        c = self.prompts.condition(self.prompts.rows(self.prompts.c, draw))
        self.q = self.start(draw) if self.q is None else self.q.to(x_t.device)  # from a checkpoint it comes on the CPU
        mine = torch.arange(self.batch, device=x_t.device), draw.concept
        q = self.q[mine]  # (B, S, D)
        for _ in range(self.inner):
            q = self.step(q, draw, x_t, eps_c, c)
        self.q[mine] = q
        error = (self.answer(q, draw, x_t, c) - eps_f).square().flatten(1).mean(1)
        return self.share * nn.functional.pad(error, (0, given - len(error)))

    def start(self, draw: Draw) -> Tensor:
        """Every q, as a function of the first draw."""
        own = torch.arange(1, self.concepts + 1) * OWN_SEED  # which wraps around
        seeds = (draw.noise.cpu()[:, None] + own) % 2**62  # (B, K)
        noise = unit_noise(self.mean.shape, seeds.flatten()).to(self.mean).unflatten(0, seeds.shape)
        return self.mean + NEAR * self.spread * noise

    def step(self, q: Tensor, draw: Draw, x_t: Tensor, eps_c: Tensor, c: Condition) -> Tensor:
        """One step of every q down the distance to what the frozen model says of c: (B, S, D)."""
        with torch.enable_grad():
            at = q.clone().requires_grad_()
            distance = (self.answer(at, draw, x_t, c) - eps_c).square().flatten(1).mean(1)  # (B,), each of its own q
            (gradient,) = torch.autograd.grad(distance.sum(), at)
        return q - STEP * rms(c[TEXT]) * gradient / rms(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)

    def answer(self, q: Tensor, draw: Draw, x_t: Tensor, c: Condition) -> Tensor:
        """ε_θ(x_t, q, t), (B, C, h, w)."""
        (eps,) = predict(self.model, self.student, self.sampler, x_t, draw.position, {**c, TEXT: q})
        return eps

    def state(self) -> Tensor | None:
        """What must be in a checkpoint for a resumed run to equal a straight one."""
        return self.q

    def restore(self, state: Tensor | None) -> None:
        self.q = state
