"""A student that learns low-rank differences (LoRA, Hu et al. 2021, arXiv 2106.09685), by PEFT's adapters.

    W = W₀ + (alpha / rank) · B·A      A (rank, in), B (out, rank), B = 0 at the start

Every weight of the denoiser is the teacher's own storage; the adapters alone are trained, on the matrices that the layer rule
names. Biases and norms that it names stay as they are: LoRA has no place for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from esd import UserError
from esd.erasing.layers import student_of
from esd.erasing.lora_factors import Factors


def adaptable(denoiser: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    """The modules, by name, whose weights are among these names and are matrices or convolutions."""
    modules = {name.rpartition(".")[0]: name for name in names if name.endswith(".weight")}
    found = {module: denoiser.get_submodule(module) for module in modules}
    return {name: module for name, module in found.items() if isinstance(module, nn.Linear | nn.Conv2d)}


def check_rank(modules: Mapping[str, nn.Module], rank: int, layers: str) -> None:
    """Raises UserError where there is nothing to adapt, and for a rank that a matrix has not. A convolution at the latents'
    end has four channels: there a LoRA is wide, and that is all."""
    if not modules:
        raise UserError(f"lora.rank={rank}: layers={layers} names no matrix, and LoRA is for matrices: choose another rule")
    matrices = {name: module for name, module in modules.items() if isinstance(module, nn.Linear)} or modules
    name, module = min(matrices.items(), key=lambda item: min(item[1].weight.flatten(1).shape))
    if rank > (most := min(module.weight.flatten(1).shape)):
        raise UserError(f"lora.rank={rank} is above the rank of {name}, {most}: give lora.rank={most} or less")


def lora_student_of(
    teacher: nn.Module, names: list[str], rank: int, alpha: float, seed: int, layers: str = ""
) -> tuple[nn.Module, list[str]]:
    """The student, and the names of its trained parameters, which are float32.

    names:  of the weights that the layer rule chose
    seed:   of A's numbers, uniform as PEFT has them
    layers: the rule's name, for a UserError
    """
    from peft import LoraConfig, inject_adapter_in_model  # 2 seconds

    modules = adaptable(teacher, names)
    check_rank(modules, rank, layers)
    student = student_of(teacher, [])
    targets = "|".join(map(re.escape, modules))  # a pattern that is matched whole: a list would match names' ends
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=f"({targets})"), student)
    trained = [name for name, parameter in student.named_parameters() if parameter.requires_grad]
    for name in trained:
        parameter = student.get_parameter(name)
        parameter.data = parameter.data.float()
    return student.eval(), trained


def factors(trained: Mapping[str, Tensor], rank: int, alpha: float) -> Factors:
    """What was trained, as an edit's factors: by the module's name, down and up, alpha / rank in up."""
    end = ".lora_A.default.weight"
    modules = [name.removesuffix(end) for name in trained if name.endswith(end)]
    return {
        module: (trained[f"{module}{end}"], trained[f"{module}.lora_B.default.weight"] * (alpha / rank)) for module in modules
    }
