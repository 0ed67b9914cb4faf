"""An erasure from Python: a loaded diffusers pipeline in, an edit out, the pipeline as it was.

from esd import erase
edit = erase(pipe, "Van Gogh", layers="esd-x", steps=1000)
edit.save("van-gogh.safetensors")
edit.apply(pipe, strength=1.0)
"""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from diffusers import DiffusionPipeline
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from torch import nn
from tqdm.auto import tqdm

from esd import UserError
from esd.erasing.adversary import Robust
from esd.erasing.bar import ErasingBar
from esd.erasing.cache import Cache
from esd.erasing.checks import check_lora, check_options, check_precision, require_one_of, texts
from esd.erasing.concepts import pair_up, preserved
from esd.erasing.edit import Edit
from esd.erasing.layers import Layers, rule_of
from esd.erasing.load import denoiser_of
from esd.erasing.pipelines import device_of, interruptible, model_of, torch_switches, untouched
from esd.erasing.prompts import unread_of
from esd.erasing.run import Options, Run, free_determinism, lora_of, trainer_for
from esd.erasing.trajectories import Pool, StudentWalks, Trajectories
from esd.models import DTYPES
from esd.models.devices import precision_for
from esd.models.lengths import named, unread
from esd.models.quiet import quiet_lightning

SOURCES: dict[str, type[Trajectories]] = {source.name: source for source in (StudentWalks, Pool, Cache)}


def erase(
    pipe: DiffusionPipeline,
    concept: str | Sequence[str],
    *,
    erase_from: str | Sequence[str] = "",
    templates: str | Sequence[str] = ("{}",),
    eta: float = 1.0,
    layers: str | Layers = "esd-x",
    trajectories: str | Trajectories = "pool",
    guidance: float = 3.0,
    sampling_steps: int = 50,
    steps: int = 1000,
    batch: int = 1,
    lr: float = 1e-5,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    seed: int = 0,
    preserve: str | Sequence[str] | None = None,
    preserve_weight: float = 1.0,
    preserve_batch: int = 0,
    spare: float = 0.0,
    closed_form: float = 0.0,
    spared: str | Sequence[str] | None = None,
    robust_share: float = 0.0,
    robust_inner: int = 1,
    robust_from: str | Sequence[str] | None = None,
    optimizer: Callable | None = None,
    schedule: Callable | None = None,
    precision: str | None = None,
    dtype: str = "auto",
    quantize: str | None = None,
    truncate: bool = False,
    deterministic: bool | Literal["warn"] | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> Edit:
    """Erase concepts from a diffusers pipeline (Stable Diffusion 1, 2, XL and 3, FLUX.1), on the device that it is on.

    The options are those of `python -m esd.train` and their defaults the ones it has for Stable Diffusion, the paper's but
    for the source of x_t (trajectories="student" is the paper's, and slower). The same options make the same edit.

    concept:      what to erase: a text, or a list of them
    erase_from:   what the concept is taken out of: one for all, or one for each; "" is the null prompt, as in the paper
    templates:    the phrasings a concept is trained through, "{}" where it goes
    eta:          η ≥ 0, how far to push away from the concept (erasing.concepts.Concept says how other scripts count it)
    layers:       which weights move: the name of a rule of conf/layers, or an object (erasing.layers)
    trajectories: where x_t comes from: "student", "pool", "cache", or an object (erasing.trajectories)
    guidance, sampling_steps: of the walk to x_t. Of FLUX.1 dev, which is guided by a number it is told, guidance=1
    steps, batch, lr, seed: of the training. The seed decides every draw: no other random state is read or left changed
    preserve:     prompts to keep; preserve_batch: how many of them beside each step's erasing examples (0: as many)
    spare, spared: how far each step is kept out of what the texts of these prompts share with the concept's; with layers="kv"
                  (erasing.projection). For example 0.015, and dozens of prompts
    closed_form:  begin at keys and values that are solved for the concept and for the spared prompts, these with a weight,
                  for example 10; then fewer steps do, or none (erasing.closed_form)
    robust_share, robust_inner, robust_from: beside each example an adversary, a conditioning that still brings the concept
                  back, is erased too, with this share of the loss (1: as much as the concept). It takes so many steps for each
                  of the student's, and starts at the mean of these prompts, dozens of others (erasing.adversary)
    optimizer, schedule: parameters → torch's optimiser, and optimiser → schedule, as functools.partial; nothing: Adam, constant
    precision, deterministic: Lightning's. No precision: the one that suits the device (esd.models.devices)
    lora_rank, lora_alpha: train LoRA of this rank on the matrices that `layers` names, in place of whole weights
    dtype:        of the frozen weights while it trains: as the pipeline has them ("auto"), "bf16", "fp16" or "fp32"; the
                  trained ones are float32. quantize="int8" keeps fewer bits of them, beside a LoRA
    truncate:     of a concept that is longer than the text encoders hold, erase what is read; else that is an error
    progress:     whether bars are shown; callbacks, loggers: Lightning's own, as its Trainer takes them

    The pipeline is left as it was: `edit.apply(pipe)` puts the edit on it. Raises UserError, in one line, for a pipeline or a
    value that cannot be had, before anything is computed, and where training fails because of them (a loss that is not
    finite). Ctrl-C stops it, without an edit.
    """
    asked = {name: value for name, value in locals().items() if name not in ("pipe", "progress", "callbacks", "loggers")}
    templates = texts(templates, "templates")
    check_options({**asked, "templates": templates})
    check_lora(lora_rank, lora_alpha, quantize, spare=spare, closed_form=closed_form)
    if bool(spare or closed_form) != bool(spared):
        raise UserError("spare, closed_form and spared go together: a strength, for example 0.015, and the prompts to spare")
    require_one_of(dtype, "dtype", DTYPES)
    check_precision(precision, "precision")
    if bool(robust_share) != bool(robust_from):
        raise UserError("robust_share and robust_from go together: for example 1, and prompts that do not name the concept")
    robust = Robust(robust_share, robust_inner, texts(robust_from, "robust_from") if robust_from else [])
    erased = pair_up(texts(concept, "concept"), texts(erase_from, "erase_from") if erase_from else [""], float(eta))
    prompts = texts(preserve, "preserve") if preserve is not None and preserve_weight else []
    optimizer = optimizer or functools.partial(torch.optim.Adam, lr=float(lr))
    schedule = schedule or functools.partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
    with one_line("optimizer, schedule"):
        schedule(optimizer([nn.Parameter(torch.zeros(()))]))
    options = Options(
        concepts=erased, preserved=preserved(prompts, float(preserve_weight), erased), templates=templates, eta=float(eta),
        layers=rule_of(layers), trajectories=source_of(trajectories), guidance=float(guidance), sampling_steps=sampling_steps,
        steps=steps, batch=batch, lr=float(lr), lora=lora_of(lora_rank, lora_alpha), seed=seed,
        preserve_weight=float(preserve_weight), preserve_batch=preserve_batch, spare=float(spare),
        closed_form=float(closed_form),
        spared=texts(spared, "spared") if spared else [], optimizer=optimizer, schedule=schedule,
        dtype=dtype, quantize=quantize, robust=robust if robust_share else None,
        gradient_checkpointing=gradient_checkpointing, compile=compile,
    )  # fmt: skip
    with untouched(pipe), quiet_lightning(), torch_switches():
        found_in = next(denoiser_of(pipe).parameters()).dtype
        model = model_of(pipe, options.dtype_loaded)
        not_read = unread_of(model, erased, templates, truncate)
        for prompt in prompts:
            if rest := unread(pipe, prompt):
                warnings.warn(f"{named(prompt)} is longer than the text encoders hold: {named(rest)} is not read", stacklevel=2)
        bars = [ErasingBar(refresh_rate=5)] if progress else []
        device = device_of(pipe)
        with one_line("precision, deterministic, callbacks"):
            trainer = trainer_for(
                Trainer, steps, precision=precision or precision_for(device["accelerator"]), callbacks=[*bars, *callbacks],
                enable_progress_bar=progress,
                deterministic=free_determinism() if deterministic is None else deterministic, log_every_n_steps=10,
                **device,
            )  # fmt: skip
        trainer.loggers = list(loggers)
        run = Run(model, options, trainer)
        with tqdm(desc="Rolling out", disable=not progress, leave=False, delay=0.2) as bar:  # not shown where nothing is

            def advance(n: int, total: int) -> None:
                bar.total = total
                bar.update(n)

            run.begin(advance)
        try:
            with interruptible():
                run.fit()
            record = options.record(
                base=str(pipe.config.get("_name_or_path") or type(pipe).__name__),
                base_hash=model.base_hash,
                devices=trainer.world_size,
                preserve=preserve if isinstance(preserve, str | None) else list(preserve),
                optimizer=described(optimizer),
                schedule=described(schedule),
                precision=trainer.precision,
                deterministic=torch.are_deterministic_algorithms_enabled(),
                command=call_of(asked),
                not_read=not_read,
            )
            if found_in not in (torch.float32, torch.float16):  # rounded otherwise than the hash is: no other model has it
                del record["base_hash"]
            return run.edit(record)
        except FloatingPointError as error:
            raise UserError(str(error)) from error


def source_of(trajectories: str | Trajectories) -> Trajectories:
    """The source of x_t that is meant. Raises UserError where there is none."""
    if isinstance(trajectories, Trajectories):
        return trajectories
    require_one_of(trajectories, "trajectories", SOURCES)
    return SOURCES[trajectories]()


@contextmanager
def one_line(options: str) -> Iterator[None]:
    """Around what only builds an object from options: whatever it raises is about them, and becomes a UserError."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{options}: {' '.join(str(error).split())}") from error


def described(part: Callable) -> dict:
    """A class or a partial of one as conf/ names it: by the shortest path to it, with its options."""
    target = part.func if isinstance(part, functools.partial) else part
    module, name = target.__module__, target.__qualname__
    while getattr(sys.modules.get(module.rpartition(".")[0]), name, None) is target:
        module = module.rpartition(".")[0]
    options = {"_partial_": True, **part.keywords} if isinstance(part, functools.partial) else {}
    return {"_target_": f"{module}.{name}", **options}


def call_of(asked: dict) -> str:
    """The call, for the record: with what is not by default."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(erase).parameters.items()}
    options = [f"{name}={value!r}" for name, value in asked.items() if name != "concept" and value != defaults[name]]
    return f"esd.erase(pipe, {', '.join([repr(asked['concept']), *options])})"
