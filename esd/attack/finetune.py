"""Fine-tuning back (Meta-Unlearning, Gao et al. 2025): how many steps on a few pictures bring the concept back.

The diffusion loss under the concept's own name, on the weights of a layer rule; a copy is trained, the edit stays.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from hydra.utils import instantiate
from torch import nn

from esd.attack.inversion import repeated
from esd.attack.target import POSITIONS, Found, Target, seeded
from esd.erasing.layers import rule_of, select_parameters, student_of


class Finetune:
    """steps: when it is looked at, in one run at a constant rate. pictures: how many the attacker has."""

    needs, check, draws = ("pictures",), "weak edit", None

    def __init__(self, layers: dict, steps: list[int], pictures: int, batch: int, lr: float):
        self.rule = rule_of(instantiate({"_target_": "esd.erasing.layers.LayerRule", **layers}, _convert_="all"))
        self.steps, self.pictures, self.batch, self.lr = sorted(steps), pictures, batch, lr
        self.finds = len(steps)

    def forwards(self) -> float:
        return 3 * self.batch * self.steps[-1]

    def find(self, target: Target, seed: int) -> Iterator[Found]:
        student = student_of(target.denoiser, select_parameters(target.denoiser, self.rule))
        trained = [p for p in student.parameters() if p.requires_grad]
        generator, sampler = seeded(seed), target.model.sampler(POSITIONS).to(target.device)
        few = torch.randperm(len(target.latents), generator=generator)[: self.pictures]
        tuned = copy.copy(target)
        tuned.denoiser, tuned.latents = student, target.latents[few]
        optimizer, condition = torch.optim.Adam(trained, self.lr), target.condition([target.prompt])
        for step in range(1, self.steps[-1] + 1):
            x_0, noise, position = tuned.examples(self.batch, generator)
            loss = tuned.error(repeated(condition, self.batch), x_0, noise, position, sampler).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            torch.clear_autocast_cache()  # else the weights that were cast before the step would be taken again
            if step in self.steps:
                yield Found(step, "", loss.item(), lambda seeds, denoiser=None: tuned.draw(condition, seeds), transfers=False)
