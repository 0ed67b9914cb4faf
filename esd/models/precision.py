"""The precision that frozen weights are stored in, apart from the one that is computed in.

A frozen weight stays as it was on disk, or in the 16 bits that were asked for, and is cast where it is used. Autocast would
keep every cast weight for the backward pass, as many bytes again: here the backward pass casts the stored weight anew.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

STORED = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}  # model.dtype; auto: as on disk
ON_DISK = {  # safetensors' names; 8 bits are stored in 16, which hold each of their values: nothing computes in them
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float32,
    "F8_E4M3": torch.bfloat16, "F8_E5M2": torch.bfloat16,
}  # fmt: skip


def dtype_on_disk(files: Iterable[Path]) -> torch.dtype:
    """The precision of most of the bytes in these .safetensors files, by their headers; float32 where there are none. Whether
    a file is damaged is its loader's to say."""
    sizes: dict[torch.dtype, int] = {}
    for path in files:
        with contextlib.suppress(SafetensorError), safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                if dtype := ON_DISK.get(part.get_dtype()):
                    sizes[dtype] = sizes.get(dtype, 0) + dtype.itemsize * torch.Size(part.get_shape()).numel()
    return max(sizes, key=sizes.get, default=torch.float32)


def store(pipeline: DiffusionPipeline, denoiser: nn.Module, dtype: str) -> None:
    """Store the denoiser's weights in this precision. Text encoders and VAE, which serve in passing, stay as they are; "fp32"
    is float32 throughout."""
    if dtype != "fp32":
        return store_denoiser(denoiser, dtype)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.float()


@torch.no_grad()
def store_denoiser(denoiser: nn.Module, dtype: str) -> None:
    """Store its matrices in this precision ("auto": as they are), in place: who shares a weight has it so, too.

    Vectors (biases, norms, one weight in a thousand) become float32, exactly: norms take no other beside a float32 latent.
    """
    for parameter in denoiser.parameters():
        wanted = STORED.get(dtype, parameter.dtype) if parameter.dim() > 1 else torch.float32
        parameter.data = parameter.data.to(wanted)
    compute_from_stored(denoiser)


def compute_from_stored(denoiser: nn.Module) -> None:
    """Let the denoiser's Linear and Conv2d compute in autocast's precision, or else in their input's, whatever they store."""
    for module in denoiser.modules():
        if type(module) in FORWARDS:
            module.forward = types.MethodType(FORWARDS[type(module)], module)  # follows a copy of the module


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    if _as_computed(module.weight, x):
        return F.linear(x, module.weight, module.bias)
    return _FromStored.apply(x, module.weight, module.bias, None)


def _conv2d(module: nn.Conv2d, x: Tensor) -> Tensor:
    if _as_computed(module.weight, x) or module.padding_mode != "zeros":
        return module._conv_forward(x, module.weight, module.bias)
    return _FromStored.apply(x, module.weight, module.bias, (module.stride, module.padding, module.dilation, module.groups))


FORWARDS = {nn.Linear: _linear, nn.Conv2d: _conv2d}


def quantize(teacher: nn.Module, student: nn.Module) -> None:
    """Store the weights of every Linear that student and teacher share in 8 bits (torchao's int8, a scale for each row), one
    after the other, so that no more is held at once than before. For a student whose own weights are adapters."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    for name, module in teacher.named_modules():
        if isinstance(module, nn.Linear):
            own = student.get_submodule(name)
            own = getattr(own, "base_layer", own)  # PEFT's adapter stands around it
            quantize_(module, Int8WeightOnlyConfig())
            own.weight = module.weight
    for denoiser in (teacher, student):
        compute_from_stored(denoiser)


def computed_in(x: Tensor) -> torch.dtype:
    """The precision of a product with x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _as_computed(weight: Tensor, x: Tensor) -> bool:
    """Whether torch itself should apply the weight: it is trained, or stored as it is computed with."""
    return weight.requires_grad or (not quantized(weight) and weight.dtype == computed_in(x))


def quantized(weight: Tensor) -> bool:
    """Whether it is one of torchao's."""
    return hasattr(weight, "qdata")


def cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A stored weight in the precision that is computed in."""
    return weight.dequantize(dtype) if quantized(weight) else weight.to(dtype)


class _FromStored(torch.autograd.Function):
    """A linear map or a convolution by a frozen weight; the backward pass keeps the weight as it is stored."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, window: tuple | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.dtype, ctx.window = x.shape, x.dtype, window
        dtype = computed_in(x)
        x, weight, bias = x.to(dtype), cast(weight, dtype), None if bias is None else bias.to(dtype)
        return F.linear(x, weight, bias) if window is None else F.conv2d(x, weight, bias, *window)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias_grad = cast(ctx.saved_tensors[0], grad.dtype), None
        if ctx.needs_input_grad[2]:  # a rule may train the bias alone
            bias_grad = grad.flatten(0, -2).sum(0).float() if ctx.window is None else grad.sum((0, 2, 3)).float()
        x_grad = grad @ weight if ctx.window is None else torch.nn.grad.conv2d_input(ctx.shape, weight, grad, *ctx.window)
        return x_grad.to(ctx.dtype), None, bias_grad, None


@contextlib.contextmanager
def lent(device: torch.device | str, *modules: nn.Module | None, dtype: torch.dtype | None = None) -> Iterator[None]:
    """The modules on this device (and in this precision) while the block runs. What they were stays where it was, and is what
    they are again: nothing is copied back."""
    tensors = [t for module in modules if module is not None for t in (*module.parameters(), *module.buffers())]
    home = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device, dtype if tensor.is_floating_point() else None)
        yield
    finally:
        for tensor, data in zip(tensors, home, strict=True):
            tensor.data = data
