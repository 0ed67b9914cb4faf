"""A loaded diffusers pipeline in somebody's program: its model for an erasure, and all left as it was found."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from esd import UserError, models
from esd.erasing.layers import student_of
from esd.erasing.load import check_writable, denoiser_of
from esd.models import precision
from esd.models.family import Model
from esd.models.folders import SUPPORTED
from esd.models.hashes import fingerprint


def model_of(pipe: DiffusionPipeline, dtype: str) -> Model:
    """The pipeline's model, its denoiser the pipeline's own weights in a module apart. dtype: esd.models.load's.

    Raises UserError for a pipeline that is not supported, or whose weights are not all there as they were trained.
    """
    model, denoiser = models.from_pipeline(pipe, type(pipe).__name__), denoiser_of(pipe)
    if any(hasattr(part, "_hf_hook") for part in pipe.components.values()):
        raise UserError("the pipeline's weights are offloaded: call erase before enable_model_cpu_offload")
    check_writable(denoiser, before="erase")
    if getattr(denoiser, "peft_config", None):
        raise UserError("the pipeline has LoRA weights: call unload_lora_weights before erase")
    if getattr(denoiser, "esd_edits", None):
        raise UserError("the pipeline has edits on it: take them off (strength=0), and erase all the concepts at once")
    if denoiser not in pipe.components.values():  # it was compiled, and the names of its weights begin otherwise
        model.base_hash = fingerprint(denoiser)
    model.denoiser = student_of(denoiser, [])
    precision.store(pipe, model.denoiser, dtype)
    return model


def device_of(pipe: DiffusionPipeline) -> dict[str, Any]:
    """The pipeline's device, as Lightning's trainer names it."""
    device = next(denoiser_of(pipe).parameters()).device
    return {"accelerator": device.type, "devices": [device.index or 0] if device.type == "cuda" else 1}


@contextmanager
def untouched(pipe: DiffusionPipeline) -> Iterator[None]:
    """Afterwards the pipeline's weights are the tensors that they were, and its modes and gradients are as they were."""
    if not isinstance(pipe, DiffusionPipeline):
        raise UserError(f"pipe is a {type(pipe).__name__}: {SUPPORTED}, as a loaded diffusers pipeline")
    networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    tensors = [(tensor, tensor.data) for network in networks for tensor in (*network.parameters(), *network.buffers())]
    gradients = [(p, p.requires_grad) for network in networks for p in network.parameters()]
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        yield
    finally:
        for tensor, data in tensors:  # nothing wrote into them; where they are and their precision may have changed
            tensor.data = data
        for parameter, had in gradients:
            parameter.requires_grad_(had)
        for module, training in modes:
            module.training = training


@contextmanager
def torch_switches() -> Iterator[None]:
    """Afterwards torch's switches for the whole process, and its random state, are as they were."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed, which nothing here uses
            yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(strict, warn_only=warns)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C is KeyboardInterrupt: Lightning makes it the end of the process, and has the next one ignored."""
    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        if ours and before is not None:
            signal.signal(signal.SIGINT, before)
