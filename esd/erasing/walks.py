"""Denoising with classifier-free guidance, each latent from its own position to its own position.

Sampling a picture, the walk to x_t, and a roll-out are all this one loop.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from esd.models.family import Condition, Model
from esd.models.samplers import Sampler


def select_rows(condition: Condition, rows: Tensor | slice) -> Condition:
    """Some prompts of a condition."""
    return {name: tensor[rows] for name, tensor in condition.items()}


def concatenated(*conditions: Condition) -> Condition:
    """Conditions one after the other."""
    return {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}


def guide(eps_c: Tensor, eps_null: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): ε_∅ + w·(ε_c − ε_∅)."""
    return eps_null + guidance * (eps_c - eps_null)


def predict(
    model: Model, denoiser: nn.Module, sampler: Sampler, x: Tensor, position: Tensor, *conditions: Condition
) -> tuple[Tensor, ...]:
    """ε(x, prompt, t) for each of the conditions in one forward: as many tensors of x's shape."""
    n = len(conditions)
    x, position = x.repeat(n, *[1] * (x.dim() - 1)), position.repeat(n)  # (n·B, C, h, w), (n·B,)
    eps = model.predict(denoiser, sampler.scaled(x, position), sampler.timesteps[position], concatenated(*conditions))
    return eps.chunk(n)


def walk(
    model: Model, denoiser: nn.Module, sampler: Sampler, x: Tensor, start: Tensor, stop: Tensor,
    condition: Condition, null: Condition, guidance: float | Callable,
    visit: Callable[..., None] | None = None, stride: int = 1, moved: Callable[[int], None] = lambda n: None,
) -> Tensor:  # fmt: skip
    """Walk each latent of x (B, C, h, w) from position start (B,) to position stop (B,), N being the picture, in strides
    of so many positions.

    guidance: w of classifier-free guidance, or what takes its place: (rows, position, x, eps_c, eps_null) → ε of the step.
    Those that have arrived wait, at no cost. visit(rows, x, eps_c, eps_null) is shown what was predicted at every stop;
    moved(n) is told of every n that went on by one stride.
    """
    x, position = x.clone(), start.clone()
    x_0, since = torch.zeros_like(x), start.clone()  # of a sampler that looks back: predicted at the stop before, and there
    while len(rows := (position < stop).nonzero().flatten()):
        here, at = x[rows], position[rows]
        if guidance == 1 and visit is None:
            (eps,) = predict(model, denoiser, sampler, here, at, select_rows(condition, rows))
        else:
            eps_c, eps_null = predict(model, denoiser, sampler, here, at, select_rows(condition, rows), select_rows(null, rows))
            eps = guidance(rows, at, here, eps_c, eps_null) if callable(guidance) else guide(eps_c, eps_null, guidance)
            if visit:
                visit(rows, at, here, eps_c, eps_null)
        position[rows] = torch.minimum(at + stride, stop[rows])
        if hasattr(sampler, "denoised"):
            x[rows] = sampler.step(here, eps, at, position[rows], (x_0[rows], since[rows]))
            x_0[rows], since[rows] = sampler.denoised(here, eps, at), at
        else:
            x[rows] = sampler.step(here, eps, at, position[rows])
        moved(len(rows))
    return x
