"""Where x_t comes from: latents partly denoised to t under the concept, with guidance. This is the whole cost of ESD.

Three sources, one interface: `examples(draw)` gives x_t at each drawn position, with what the frozen model predicts there
for c, for ∅ and for f (what c is erased from).

    Fresh   the paper: a walk of its own for every example, by the student. 2·i forwards to reach position i.
    Pool    B walks in flight, spread over the schedule, each one position on every step: what the frozen model predicts
            serves as the loss's teacher values and as the guidance step. (The draws are staggered: concepts.Draws.)
    Cache   the frozen model's walks are the same in every run: rolled out once, kept on disk (cache.py), looked up.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from esd.erasing.concepts import Draw
from esd.erasing.prompts import PromptTable
from esd.erasing.walks import guide, predict, walk
from esd.models.family import Model
from esd.models.samplers import Sampler


class Examples(NamedTuple):
    """All (B, C, h, w)."""

    x_t: Tensor
    eps_c: Tensor  # ε_θ*(x_t, c, t)
    eps_null: Tensor  # ε_θ*(x_t, ∅, t)
    eps_f: Tensor  # ε_θ*(x_t, f, t), which is ε_∅ where c is erased from the null prompt


class Trajectories(Protocol):
    teacher: nn.Module | None

    def examples(self, draw: Draw) -> Examples: ...

    def state(self) -> Tensor | None:
        """What must be in a checkpoint for a resumed run to equal a straight one."""

    def restore(self, state: Tensor | None) -> None: ...


class WalkingSource:
    """What the sources that walk share: a model, its schedule, and the run's prompts."""

    def __init__(
        self, model: Model, sampler: Sampler, prompts: PromptTable, guidance: float, teacher: nn.Module, student: nn.Module
    ):
        self.model, self.sampler, self.prompts, self.guidance = model, sampler, prompts, guidance
        self.teacher, self.student = teacher, student

    def walk_from_noise(self, draw: Draw, walker: nn.Module, stride: int = 1) -> Tensor:
        """x_t at the drawn positions, walked from each example's own noise."""
        x = self.sampler.start(self.model.noise(draw.noise)).to(draw.position.device)  # (B, C, h, w)
        c = self.prompts.condition(self.prompts.rows(self.prompts.c, draw))
        null, start = self.prompts.null(len(x)), torch.zeros_like(draw.position)
        return walk(self.model, walker, self.sampler, x, start, draw.position, c, null, self.guidance, stride=stride)

    def teacher_predictions(self, x: Tensor, draw: Draw) -> Examples:
        """x_t with the frozen model's predictions for c, ∅ and f, in one forward; f costs nothing where it is ∅ or c."""
        n, c, f = len(x), self.prompts.rows(self.prompts.c, draw), self.prompts.rows(self.prompts.f, draw)
        extra = ((f != 0) & (f != c)).nonzero().flatten()
        rows = torch.cat([torch.arange(n, device=x.device)] * 2 + [extra])  # which latent each prediction is of
        prompt_rows = torch.cat([c, torch.zeros_like(c), f[extra]])
        (eps,) = predict(
            self.model, self.teacher, self.sampler, x[rows], draw.position[rows], self.prompts.condition(prompt_rows)
        )  # (2·B + extra, C, h, w)
        eps_c, eps_null = eps[:n], eps[n : 2 * n]
        eps_f = torch.where((f == c).view(-1, *[1] * (x.dim() - 1)), eps_c, eps_null)
        eps_f[extra] = eps[2 * n :]
        return Examples(x, eps_c, eps_null, eps_f)


class StudentWalks(WalkingSource):
    """The paper's source, and the reference: one walk by the student for every example."""

    def examples(self, draw: Draw) -> Examples:
        return self.teacher_predictions(self.walk_from_noise(draw, self.student), draw)

    def state(self) -> None:
        return None

    def restore(self, state: None) -> None:
        pass


class Pool(WalkingSource):
    """B walks in flight. walker: "frozen" shares its predictions with the loss, "student" walks as the paper does.

    The first walks are brought to their places in strides, DDIM in a quarter of the steps: in single steps that would
    cost as much as ten training steps.
    """

    STRIDE = 4  # positions

    def __init__(self, *args, walker: str, **kwargs):
        super().__init__(*args, **kwargs)
        self.walker = walker
        self.x: Tensor | None = None  # (B, C, h, w), at the positions of the last draw, plus one

    def examples(self, draw: Draw) -> Examples:
        if self.x is None or len(self.x) != len(draw.position):  # spread the walks: slot b goes to its first position
            self.x = self.walk_from_noise(draw, self.teacher if self.walker == "frozen" else self.student, self.STRIDE)
        self.x = self.x.to(draw.position.device)  # from a checkpoint it comes on the CPU
        arrived = (draw.position == 0).nonzero().flatten()  # these start again
        if len(arrived):
            self.x[arrived] = self.sampler.start(self.model.noise(draw.noise[arrived])).to(self.x)
        here = self.teacher_predictions(self.x, draw)
        eps_c, eps_null = here.eps_c, here.eps_null
        if self.walker == "student":
            c = self.prompts.condition(self.prompts.rows(self.prompts.c, draw))
            eps_c, eps_null = predict(
                self.model, self.student, self.sampler, self.x, draw.position, c, self.prompts.null(len(self.x))
            )
        self.x = self.sampler.step(self.x, guide(eps_c, eps_null, self.guidance), draw.position)
        return here

    def state(self) -> Tensor | None:
        return self.x

    def restore(self, state: Tensor | None) -> None:
        self.x = state


class Cache:
    """Walks of the frozen model from disk: no teacher in memory, and an example costs the student alone.

    walks: of concept k in phrasing j the tensors (K, N, C, h, w), memory-mapped; the draws' noise is a walk's number.
    """

    teacher = None

    def __init__(self, walks: list[list[Examples]], prompts: PromptTable):
        self.walks, self.prompts = walks, prompts

    def examples(self, draw: Draw) -> Examples:
        device = draw.position.device
        k, j, w, i = (column.tolist() for column in (draw.concept, draw.template, draw.noise, draw.position))
        picked = [
            [tensor[walk, position].float() for tensor in self.walks[concept][template]]
            for concept, template, walk, position in zip(k, j, w, i, strict=True)
        ]
        return Examples(*(torch.stack(parts).to(device) for parts in zip(*picked, strict=True)))

    def state(self) -> None:
        return None

    def restore(self, state: None) -> None:
        pass
