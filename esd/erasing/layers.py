"""Which weights move, and a student that shares all the others with its teacher."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from esd import UserError


@dataclass(frozen=True)
class LayerRule:
    """Names of parameters, as patterns (conf/layers/). A parameter is trained if any `include` is found in its name, no
    `exclude` is, and its module's class is one of `modules` (none named: any)."""

    name: str
    include: list[str] = field(default_factory=lambda: [""])
    exclude: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)

    def __post_init__(self):
        if not all(isinstance(names, list) for names in (self.include, self.exclude, self.modules)):
            raise TypeError("include, exclude and modules are [lists]")
        for pattern in (*self.include, *self.exclude):
            re.compile(pattern)


def select_parameters(denoiser: nn.Module, rule: LayerRule) -> list[str]:
    """The parameters that the rule names, in the denoiser's order. Raises UserError if there are none."""
    names = [
        name
        for path, module in denoiser.named_modules()
        if not rule.modules or type(module).__name__ in rule.modules
        for name, _ in module.named_parameters(prefix=path, recurse=False)
        if any(re.search(p, name) for p in rule.include) and not any(re.search(p, name) for p in rule.exclude)
    ]
    if not names:
        raise UserError(
            f"layers={rule.name} matches no weight of {type(denoiser).__name__}: choose another rule of conf/layers"
        )
    return names


def student_of(teacher: nn.Module, trained: Iterable[str]) -> nn.Module:
    """A copy that owns only the trained tensors, in float32: every other parameter and buffer is the teacher's own storage.

    The teacher is frozen; of the student exactly `trained` require gradients. Both are in eval mode: diffusers' U-Nets
    have no dropout, and gradient checkpointing depends on the gradient mode, not on this. Move or cast both together:
    `student.to(dtype)` alone would also convert what they share.
    """
    trained = set(trained)
    teacher.requires_grad_(False).eval()
    shared = {id(p): p for name, p in teacher.named_parameters() if name not in trained}
    shared |= {id(b): b for b in teacher.buffers()}
    student = copy.deepcopy(teacher, memo=shared)
    for name, parameter in student.named_parameters():
        if name in trained:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    return student
