"""Where x_t comes from: latents partly denoised to t under the concept, with guidance. This is the whole cost of ESD.

Three sources, one interface: `examples(draw)` gives x_t at each drawn position, with what the frozen model predicts there
for c, for ∅ and for f (what c is erased from).

    StudentWalks  the paper: a walk of its own for every example, by the student. 2·i forwards to reach position i.
    Pool          B walks in flight, spread over the schedule, each one position on every step: what the frozen model
                  predicts serves as the loss's teacher values and as the guidance step. (The draws are staggered.)
    Cache         the frozen model's walks are the same in every run: rolled out once, kept on disk, looked up
                  (cache.py, walk_store.py).

A source of one's own is one more subclass of Trajectories, which is named by a trajectories/<name>.yaml (_target_, name,
options; python -m esd.train --config-dir=… finds it in any folder) or handed to esd.erase. esd/erasing/__init__.py shows
how a source serves on its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from esd.erasing.checks import require_one_of
from esd.erasing.concepts import Draw
from esd.erasing.prompts import PromptTable
from esd.erasing.walks import guide, predict, walk
from esd.models.encoders import text_encoders_again
from esd.models.family import Model
from esd.models.hashes import fingerprint
from esd.models.samplers import Sampler


class Examples(NamedTuple):
    """All (B, C, h, w)."""

    x_t: Tensor
    eps_c: Tensor  # ε_θ*(x_t, c, t)
    eps_null: Tensor  # ε_θ*(x_t, ∅, t)
    eps_f: Tensor  # ε_θ*(x_t, f, t), which is ε_∅ where c is erased from the null prompt


class Denoisers:
    """θ* and θ on one schedule, under the run's prompts: what a source walks with and asks."""

    def __init__(
        self, model: Model, sampler: Sampler, prompts: PromptTable, guidance: float, teacher: nn.Module, student: nn.Module
    ):
        self.model, self.sampler, self.prompts, self.guidance = model, sampler, prompts, guidance
        self.teacher, self.student = teacher, student

    @cached_property
    def text_encoders(self) -> dict[str, str]:
        """Their hashes, by their names in the pipeline: costly once they have been let go of."""
        return {name: fingerprint(part) for name, part in sorted(text_encoders_again(self.model).items())}

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


@dataclass(eq=False)
class Trajectories(ABC):
    """A source of x_t, made from its options alone, so that a wrong one shows before a model is loaded; `begin` gives it the
    run's denoisers. A subclass is a dataclass: its fields are its options, and with `name` they go into the edit's record.
    """

    name: ClassVar[str]
    staggered: ClassVar[bool] = False  # whether slot b of a batch moves on by one position a step (concepts.Draws)
    preserving_stride: ClassVar[int] = 1  # positions that a staggered walk of what is preserved moves on by
    walks: ClassVar[int | None] = None  # how many walks there are; None: every example has noise of its own

    def begin(self, denoisers: Denoisers, advance: Callable[[int, int], None] = lambda n, total: None) -> Self:
        """Before the first example, and before a checkpoint is restored: prepare what is to be prepared. advance(n, total)
        is told of every n of its `total` forwards."""
        self.denoisers = denoisers
        self.teacher: nn.Module | None = denoisers.teacher  # None: not needed while training
        return self

    @abstractmethod
    def examples(self, draw: Draw) -> Examples:
        """x_t at the drawn positions, and what the frozen model predicts there."""

    def answered(self, draw: Draw, eps: Tensor) -> None:  # noqa: B027  (nothing, where the student is not asked to walk)
        """What the student said of these x_t under its own prompt, (B, C, h, w), before it moves: told once a step, so that a
        source that walks with the student need not ask it again."""

    @abstractmethod
    def forwards(self, positions: int) -> float:
        """Forwards of a denoiser for one example, on average over a schedule of so many positions; the loss's own comes on
        top. For the estimate of how long a run takes."""

    def forwards_to_start(self, positions: int) -> float:
        """Forwards of a batch before the first step."""
        return 0

    def roll_out(self, denoisers: Denoisers) -> tuple[float, int]:
        """What `begin` computes: how many forwards of a denoiser, of how many latents each."""
        return 0, 1

    def preparation(self, denoisers: Denoisers) -> str:
        """What `begin` does, in a line for people, where that takes long."""
        return ""

    def record(self) -> dict:
        """What the edit's record says of it."""
        own = type(self).__module__.partition(".")[0] != "esd"
        target = {"_target_": f"{type(self).__module__}.{type(self).__qualname__}"} if own else {}
        return {"name": self.name, **target, **{option.name: getattr(self, option.name) for option in fields(self)}}

    def state(self) -> Tensor | None:
        """What must be in a checkpoint for a resumed run to equal a straight one."""
        return None

    def restore(self, state: Tensor | None) -> None:  # noqa: B027  (nothing, where nothing is kept)
        """Go on from a checkpoint's state."""


@dataclass(eq=False)
class StudentWalks(Trajectories):
    """The paper's source, and the reference: one walk by the student for every example."""

    name: ClassVar[str] = "student"

    def forwards(self, positions: int) -> float:
        return (positions - 1) / 2 * 2 + 2  # a pair at each position on the way, which are (N − 1)/2; and the teacher's

    def examples(self, draw: Draw) -> Examples:
        x_t = self.denoisers.walk_from_noise(draw, self.denoisers.student)
        return self.denoisers.teacher_predictions(x_t, draw)


@dataclass(eq=False)
class Pool(Trajectories):
    """B walks in flight. walker: "frozen" shares its predictions with the loss, "student" walks as the paper does; of what it
    walks by, ε_θ(x_t, c), the loss has asked already, and ε_θ(x_t, ∅) is one more forward.

    The first walks are brought to their places in strides, DDIM in a quarter of the steps: in single steps that would
    cost as much as ten training steps. Walks of what is preserved go on in strides, too: by one position a step ten of them
    would preserve twenty prompts in a hundred steps, now a hundred.
    """

    name: ClassVar[str] = "pool"
    staggered: ClassVar[bool] = True
    preserving_stride: ClassVar[int] = 5
    STRIDE: ClassVar[int] = 4  # positions

    walker: str = "student"

    def __post_init__(self):
        require_one_of(self.walker, "trajectories.walker", ("frozen", "student"))

    def begin(self, denoisers: Denoisers, advance: Callable[[int, int], None] = lambda n, total: None) -> Self:
        self.x: Tensor | None = None  # (B, C, h, w), at the positions of the last draw, plus one
        self.waiting: Draw | None = None  # the last draw, while its step is still to be made
        return super().begin(denoisers, advance)

    def forwards(self, positions: int) -> float:
        return 2 if self.walker == "frozen" else 3

    def forwards_to_start(self, positions: int) -> float:
        return positions / self.STRIDE

    def examples(self, draw: Draw) -> Examples:
        d = self.denoisers
        self.walk_on()
        if self.x is None or len(self.x) != len(draw.position):  # spread the walks: slot b goes to its first position
            self.x = d.walk_from_noise(draw, d.teacher if self.walker == "frozen" else d.student, self.STRIDE)
        self.x = self.x.to(draw.position.device)  # from a checkpoint it comes on the CPU
        arrived = (draw.position == 0).nonzero().flatten()  # these start again
        if len(arrived):
            self.x[arrived] = d.sampler.start(d.model.noise(draw.noise[arrived])).to(self.x)
        here = d.teacher_predictions(self.x, draw)
        if self.walker == "frozen":
            self.move(draw, here.eps_c, here.eps_null)
        else:
            self.waiting = draw
        return here

    def answered(self, draw: Draw, eps: Tensor) -> None:
        d = self.denoisers
        if d.prompts.asks_for_others:  # it was asked for f, and walks under c
            self.walk_on()
        elif self.waiting is not None:
            (eps_null,) = predict(d.model, d.student, d.sampler, self.x, draw.position, d.prompts.null(len(self.x)))
            self.move(draw, eps, eps_null)

    def walk_on(self) -> None:
        """The student's step that is still to be made."""
        if self.waiting is not None:
            d, draw = self.denoisers, self.waiting
            c = d.prompts.condition(d.prompts.rows(d.prompts.c, draw))
            self.move(draw, *predict(d.model, d.student, d.sampler, self.x, draw.position, c, d.prompts.null(len(self.x))))

    def move(self, draw: Draw, eps_c: Tensor, eps_null: Tensor) -> None:
        """Each walk on to where the next draw stands."""
        d = self.denoisers
        stride = torch.where(d.prompts.preserves[draw.concept], self.preserving_stride, 1)
        to = (draw.position + stride).clamp(max=len(d.sampler))
        self.x, self.waiting = d.sampler.step(self.x, guide(eps_c, eps_null, d.guidance), draw.position, to), None

    def state(self) -> Tensor | None:
        self.walk_on()
        return self.x

    def restore(self, state: Tensor | None) -> None:
        self.x, self.waiting = state, None
