"""A start in closed form: what reads the text is solved for the concept, once, before any step is trained.

A cross-attention's keys and values are W·e of text states e. What the loss asks of predictions can be asked of states, place
by place of the text, and there it is linear:

    ê = e_f − η·(e_c − e_∅)                          as ε̂ (erasure.py; e_f = e_∅ unless erase_from is given)
    W ← argmin_V  mean ‖V·e_c − W·ê‖² + μ · mean ‖V·e − W·e‖²
      = W + W·mean[(ê − e_c)·e_cᵀ]·(mean[e_c·e_cᵀ] + μ·C)⁻¹

The first mean is over the concepts' states (with erase_from those of f, which the student is asked for, stand for e_c), the
second, with C = mean e·eᵀ, over those of the prompts that stay, the nearest weighing most (projection.py). This is the linear
solve of UCE (Gandikota et al., WACV 2024, arXiv 2308.14761) with ESD's target. It takes milliseconds and no forward of
a denoiser; the steps that follow start from it, and steps=0 leaves it at that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esd.erasing.erasure import erasure_target
from esd.erasing.projection import kept_moment, reading_text
from esd.erasing.prompts import PromptTable
from esd.models.family import Model


def solved(asked: Tensor, target: Tensor, c: Tensor, weight: float) -> Tensor:
    """M (d, d) of W ← W + W·M, in float64 on the CPU: so that W at the asked states (n, d) is what it was at the target's
    (n, d), and stays at those of which C (d, d) is the second moment. weight: μ."""
    asked, target = asked.cpu().double(), target.cpu().double()
    d = asked.shape[-1]
    a = asked.T @ asked / len(asked) + weight * c
    a += 1e-6 * a.trace() / d * torch.eye(d, dtype=a.dtype)  # few texts do not fill every direction
    return torch.linalg.solve(a, asked.T @ (target - asked) / len(asked)).T


class ClosedForm:
    """The solution for a run's concepts; `apply` it once, to a student that is still the teacher."""

    def __init__(
        self, model: Model, student: nn.Module, prompts: PromptTable, concepts: int, spared: Sequence[str], weight: float
    ):  # fmt: skip
        """concepts: how many of the table's are erased, the first ones. Raises UserError where the student trains nothing that
        reads the text alone."""
        device = next(student.parameters()).device
        stays = model.encode([*spared, ""], device)["encoder_hidden_states"]  # (n, S, d)
        self.weights = reading_text(student, stays.shape[-1], f"closed_form={weight:g}", model.name)
        rows = {name: getattr(prompts, name)[:concepts].flatten() for name in ("student_prompt", "c", "f")}
        of = {name: prompts.condition(its)["encoder_hidden_states"] for name, its in rows.items()}  # (k, S, d)
        null = prompts.null(1)["encoder_hidden_states"]
        eta = prompts.eta[:concepts].repeat_interleave(prompts.c.shape[1])
        target = erasure_target(of["f"], of["c"], null, eta)
        asked = of["student_prompt"]
        c = kept_moment(asked, stays)
        self.m = solved(asked.flatten(0, 1), target.flatten(0, 1), c, weight)

    @torch.no_grad()
    def apply(self) -> None:
        for weight in self.weights:
            weight.copy_(weight + (weight.cpu().double() @ self.m).to(weight))
