"""Which weights move, and a student that shares all the others with its teacher.

A rule of one's own is a layers/<name>.yaml with other patterns, or one whose _target_ is any class with `name` and `select`
(python -m esd.train --config-dir=… finds it in any folder); esd.erase takes the object. esd/erasing/__init__.py shows how
the functions serve on their own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import yaml
from torch import nn

from esd import UserError
from esd.files import CONF


class Layers(Protocol):
    """What chooses the weights that move: a LayerRule, or any class with these two (conf/layers/ names it, or esd.erase is
    given it)."""

    name: str  # what the edit's record says

    def select(self, denoiser: nn.Module) -> list[str]:
        """The names of parameters of the denoiser, in any order."""


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

    def select(self, denoiser: nn.Module) -> list[str]:
        return [
            name
            for path, module in denoiser.named_modules()
            if not self.modules or type(module).__name__ in self.modules
            for name, _ in module.named_parameters(prefix=path, recurse=False)
            if any(re.search(p, name) for p in self.include) and not any(re.search(p, name) for p in self.exclude)
        ]


def shipped_rule(name: str) -> LayerRule:
    """The rule of conf/layers/ with this name. Raises UserError where there is none."""
    file = CONF / "layers" / f"{name}.yaml"
    known = sorted({path.stem for path in file.parent.glob("*.yaml")} - {"default"})  # which a model's configuration resolves
    if name not in known:
        raise UserError(f"layers={name} is unknown: {', '.join(known)}, or a LayerRule")
    options = yaml.safe_load(file.read_text(encoding="utf-8"))
    return LayerRule(**{key: value for key, value in options.items() if key != "_target_"})


def rule_of(layers: str | Layers) -> Layers:
    """The rule that is meant, by its name or itself. Raises UserError for what is none."""
    if isinstance(layers, str):
        return shipped_rule(layers)
    if not (callable(getattr(layers, "select", None)) and isinstance(getattr(layers, "name", None), str)):
        raise UserError(f"layers={layers!r} is no rule: it needs a name, and a method select(denoiser)")
    return layers


def select_parameters(denoiser: nn.Module, rule: Layers) -> list[str]:
    """The parameters that the rule names, in the denoiser's order. Raises UserError if there are none, or one is not its."""
    selected, known = set(rule.select(denoiser)), [name for name, _ in denoiser.named_parameters(remove_duplicate=False)]
    if not selected:
        raise UserError(
            f"layers={rule.name} matches no weight of {type(denoiser).__name__}: choose another rule of conf/layers"
        )
    if unknown := selected.difference(known):
        raise UserError(f"layers={rule.name} names {min(unknown)}, which is no weight of {type(denoiser).__name__}")
    return [name for name in known if name in selected]


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
