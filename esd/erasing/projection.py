"""Sparing other prompts: what reads the text is changed least in what their texts share with the concept.

A cross-attention's keys and values are W·e of text states e, and "a fox" shares most of its states with "a cat": the article,
the start, the padding, and much of the noun's own direction. With C = mean e·eᵀ over the text states of prompts that are to
stay, those nearest the concept weighing most, every change of W passes through

    P = λ·(C + λ·1)⁻¹,   λ = spare · tr(C)/d          W ← W + ΔW·P

which leaves alone the directions that those states fill, and lets through those in which only the concept lies. Closed-form
edits weigh by the same C (UCE: Gandikota et al., WACV 2024, arXiv 2308.14761), and null-space edits of language models are
its limit (AlphaEdit: Fang et al., ICLR 2025, arXiv 2410.02355); here it goes with every step of the descent, and costs no
forward of a denoiser.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esd import UserError
from esd.models.family import Model

# The matrices whose input is the text states as the text encoder gives them. A transformer's text stream (SD3, FLUX) has none.
READS_TEXT = re.compile(r"\.attn2\.to_[kv]\.weight$")
NEAREST = 6  # of the prompts, to each concept: these have
WEIGHT = 0.7  # of C; the rest is all prompts'


def reading_text(student: nn.Module, width: int, option: str, model: str) -> list[nn.Parameter]:
    """The trained matrices (out, width) that read text states of so many channels, which an option such as "spare=0.015" is
    of. Raises UserError where the layers train none of this model's."""
    weights = [
        parameter
        for name, parameter in student.named_parameters()
        if parameter.requires_grad and READS_TEXT.search(name) and parameter.shape[1] == width
    ]
    if not weights:
        raise UserError(
            f"{option} is of the matrices that read the text alone (attn2.to_k, to_v), of which these layers of {model} train "
            f"none: {option.partition('=')[0]}=0, or layers=kv"
        )
    return weights


def nearest(concepts: Tensor, states: Tensor) -> Tensor:
    """Rows of the prompts whose text states (n, S, d) are most like one of the concepts' (k, S, d): NEAREST of each, by the
    cosine of what is left of them without the mean prompt."""
    mean = states.mean(0)
    a, b = (nn.functional.normalize((x - mean).flatten(1), dim=1) for x in (concepts, states))
    return (a @ b.T).topk(min(NEAREST, len(states)), dim=1).indices.flatten().unique()


def kept_moment(concepts: Tensor, states: Tensor) -> Tensor:
    """C (d, d), in float64 (on the CPU: some devices have none), of the text states (k, S, d) of the concepts and (n, S, d) of
    the prompts that are to stay."""
    concepts, states = concepts.cpu(), states.cpu()
    parts = [(1 - WEIGHT, states), (WEIGHT, states[nearest(concepts, states)])]
    c = torch.zeros(states.shape[-1], states.shape[-1], dtype=torch.float64)
    for share, of in parts:
        e = of.flatten(0, 1).double()  # (n·S, d)
        c += share * e.T @ e / len(e)
    return c


def projection(concepts: Tensor, states: Tensor, spare: float) -> Tensor:
    """P (d, d), symmetric with eigenvalues in (0, 1], of the text states (k, S, d) of the concepts and (n, S, d) of the
    prompts that are to stay."""
    c = kept_moment(concepts, states)
    lam = spare * c.trace() / len(c)
    return (lam * torch.linalg.inv(c + lam * torch.eye(len(c), dtype=c.dtype))).float()


class Projection:
    """Around an optimiser's step: `before` it the gradients pass through P, `after` it what the step changed."""

    def __init__(self, model: Model, student: nn.Module, concepts: Sequence[str], spared: Sequence[str], spare: float):
        """Raises UserError where the student trains nothing that reads the text alone."""
        device = next(student.parameters()).device
        states = model.encode([*spared, ""], device)["encoder_hidden_states"]  # ∅ is in every walk
        self.weights = reading_text(student, states.shape[-1], f"spare={spare:g}", model.name)
        self.p = projection(model.encode(list(concepts), device)["encoder_hidden_states"], states, spare).detach().to(device)
        self.old: list[Tensor] = []

    def before(self) -> None:
        for weight in self.weights:
            weight.grad = weight.grad @ self.p
        self.old = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def after(self) -> None:
        """An optimiser that scales entry by entry leaves the subspace: its step is projected too."""
        for weight, old in zip(self.weights, self.old, strict=True):
            weight.copy_(old + (weight - old) @ self.p)
        self.old = []
