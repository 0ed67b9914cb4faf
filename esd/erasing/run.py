"""One erasure from its options to its edit: what `python -m esd.train` and `esd.erase` both do."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from esd.erasing.adversary import Adversary, Robust
from esd.erasing.cache import Cache
from esd.erasing.closed_form import ClosedForm
from esd.erasing.concepts import Concept, Draws
from esd.erasing.edit import Edit
from esd.erasing.erasure import Erasure
from esd.erasing.layers import Layers, select_parameters, student_of
from esd.erasing.logged_figures import LoggedFigures
from esd.erasing.lora import adaptable, check_rank, factors, lora_student_of
from esd.erasing.lora_factors import tensors_of
from esd.erasing.projection import Projection, nearest
from esd.erasing.prompts import PromptTable
from esd.erasing.trajectories import Denoisers, Trajectories
from esd.models import precision
from esd.models.family import Model


@dataclass(frozen=True, kw_only=True)
class Options:
    """All that decides an edit beside the model, under the names of conf/train.yaml, its choices as objects."""

    concepts: list[Concept]  # to erase
    preserved: list[Concept]
    templates: list[str]
    eta: float
    layers: Layers
    trajectories: Trajectories
    guidance: float
    sampling_steps: int
    steps: int
    batch: int
    lr: float
    seed: int
    preserve_weight: float
    preserve_batch: int
    spare: float  # λ of erasing/projection.py; 0: every weight moves freely
    closed_form: float  # μ of erasing/closed_form.py; 0: training starts at the model's own weights
    spared: list[str]  # the prompts that these two spare
    optimizer: Callable  # parameters → torch's optimiser
    schedule: Callable  # optimiser → torch's schedule
    lora: tuple[int, float] | None  # rank and alpha; None: whole weights are trained
    dtype: str  # of the frozen weights: esd.models.DTYPES
    quantize: str | None  # of the frozen weights beside a LoRA: int8
    robust: Robust | None = None  # erasing/adversary.py; None: no adversaries
    gradient_checkpointing: bool = False
    compile: bool = False

    @property
    def preserving_batch(self) -> int:
        """Examples of a step that preserve."""
        return (self.preserve_batch or self.batch) if self.preserved else 0

    @property
    def dtype_loaded(self) -> str:
        """What the model is to be loaded in: the student is made of the weights on disk, before the frozen ones are rounded."""
        return "fp32" if self.dtype == "fp32" else "auto"

    def record(
        self, *, base: str, base_hash: str, devices: int, preserve: object, optimizer: dict, schedule: dict, precision: str,
        deterministic: bool, command: str, not_read: dict[str, str],
    ) -> dict:  # fmt: skip
        """All that an edit depends on; nothing else, so that a run that was interrupted leaves the same file.

        base: the model's name or path. devices: on each of which a step has a batch. preserve, optimizer, schedule: as they
        were asked for, in plain values. not_read: of a prompt to erase the rest that the text encoders do not hold.
        """
        return {
            "base": base,
            "base_hash": base_hash,
            "concept": [concept.text for concept in self.concepts],
            "erase_from": [concept.erase_from for concept in self.concepts],
            "templates": self.templates,
            "eta": self.eta,
            "layers": self.layers.name,
            "lora": dict(zip(("rank", "alpha"), self.lora, strict=True)) if self.lora else None,
            "trajectories": self.trajectories.record(),
            "guidance": self.guidance,
            "sampling_steps": self.sampling_steps,
            "steps": self.steps,
            "batch": self.batch,
            "devices": devices,
            "lr": self.lr,
            "seed": self.seed,
            "preserve": preserve,
            "preserve_weight": self.preserve_weight,
            "preserve_batch": self.preserve_batch or self.batch,
            "spare": self.spare,
            "closed_form": self.closed_form,
            "robust": self.robust and self.robust.record(),
            "optimizer": optimizer,
            "schedule": schedule,
            "precision": precision,
            "dtype": self.dtype,
            "quantize": self.quantize,
            "deterministic": deterministic,
            "command": command,
            "versions": versions(),
            **({"not_read": not_read} if not_read else {}),
        }


def lora_of(rank: int | None, alpha: float | None) -> tuple[int, float] | None:
    """Options.lora: alpha is the rank unless it is given."""
    return None if rank is None else (rank, rank if alpha is None else float(alpha))


def trainer_for(make: Callable[..., Trainer], steps: int, callbacks: Sequence[Callback] = (), **options) -> Trainer:
    """Lightning's trainer for one long epoch of so many steps, which keeps and reports nothing unless told to."""
    return make(
        max_steps=steps, limit_train_batches=steps, logger=False, enable_checkpointing=False, enable_model_summary=False,
        use_distributed_sampler=False, callbacks=[LoggedFigures(), *callbacks], **options,
    )  # fmt: skip


def check_lora_fits(denoiser: nn.Module, options: Options) -> None:
    """Raises UserError for a LoRA that this denoiser cannot have. denoiser: on the meta device, too."""
    if options.lora is not None:
        names = select_parameters(denoiser, options.layers)
        check_rank(adaptable(denoiser, names), options.lora[0], options.layers.name)


class Run:
    """Everything that an erasure is made of, on the trainer's device: Run(…), then begin(), then fit(), then edit(…)."""

    def __init__(self, model: Model, options: Options, trainer: Trainer):
        """model: loaded in `options.dtype_loaded`."""
        self.model, self.options, self.trainer = model, options, trainer
        torch.utils.deterministic.fill_uninitialized_memory = False  # a help for debugging, at a cost
        self.device = trainer.strategy.root_device
        names = select_parameters(model.denoiser, options.layers)
        if options.lora is None:
            self.student, self.trained = student_of(model.denoiser, names), names
        else:
            self.student, self.trained = lora_student_of(
                model.denoiser, names, *options.lora, options.seed, options.layers.name
            )  # fmt: skip
        precision.store(model.base, model.denoiser, options.dtype)
        if options.quantize is not None:
            precision.quantize(model.denoiser, self.student)
        self.prompts = PromptTable(model, options.concepts + options.preserved, options.templates, self.device)
        self.sampler = model.sampler(options.sampling_steps)
        if options.gradient_checkpointing:
            self.student.enable_gradient_checkpointing()
        for denoiser in (model.denoiser, self.student) if options.compile else ():
            denoiser.compile()  # in place: the names of its weights stay
        for part in (model.denoiser, self.student, self.prompts, self.sampler):
            part.to(self.device)  # where a cache is rolled out
        self.denoisers = Denoisers(model, self.sampler, self.prompts, options.guidance, model.denoiser, self.student)
        if isinstance(options.trajectories, Cache):
            self.denoisers.text_encoders  # noqa: B018  (hashed here, where they are at hand)
        self.adversary = None
        if options.robust is not None:  # here, where the text encoders are at hand
            self.adversary = Adversary(
                model, self.student, self.sampler, self.prompts, options.robust, options.batch, len(options.concepts)
            )  # fmt: skip

    def begin(self, advance: Callable[[int, int], None] = lambda n, total: None) -> None:
        """Prepare the source of x_t, which may take long: advance(n, total) is told of every n of its forwards."""
        o = self.options
        projection = self.closed_form = None  # before the source, which may send to the CPU what the student shares
        if o.closed_form:
            self.closed_form = ClosedForm(
                self.model, self.student, self.prompts, len(o.concepts), o.spared, o.closed_form
            )  # fmt: skip
        if o.spare:
            gone = [concept.erase_from or concept.text for concept in o.concepts]  # what the student is asked for
            projection = Projection(self.model, self.student, gone, o.spared, o.spare)
        with self.trainer.precision_plugin.forward_context():  # what is walked before the training, as it is walked there
            self.trajectories = copy.copy(o.trajectories).begin(self.denoisers, advance)
        self.module = Erasure(
            self.model, self.student, self.trained, self.prompts, self.sampler, self.trajectories, o.optimizer, o.schedule,
            projection, self.adversary,
        )  # fmt: skip
        self.module.to(self.device)

    def nearest_preserved(self) -> list[int]:
        """The preserved prompts whose texts are most like a concept's, by their numbers in the draws."""
        if not self.options.preserved:
            return []
        erased = len(self.options.concepts)
        states = self.prompts.condition(self.prompts.c[:, 0])["encoder_hidden_states"].cpu()  # (K, S, d), of FLUX a GB
        return [erased + row for row in nearest(states[:erased], states[erased:]).tolist()]

    def fit(self, checkpoint: Path | None = None, done: int = 0) -> None:
        """Train; on from a checkpoint of so many steps, if there is one."""
        o = self.options
        if self.closed_form and checkpoint is None:
            self.closed_form.apply()
        draws = Draws(
            concepts=len(o.concepts), templates=len(o.templates), positions=len(self.sampler), batch=o.batch, seed=o.seed,
            preserved=len(o.preserved), preserved_batch=o.preserving_batch, nearest=self.nearest_preserved(),
            walks=self.trajectories.walks, staggered=self.trajectories.staggered, stride=self.trajectories.preserving_stride,
            rank=self.trainer.global_rank, world=self.trainer.world_size, start=done,
        )  # fmt: skip
        self.trainer.fit(self.module, DataLoader(draws, batch_size=None), ckpt_path=checkpoint, weights_only=True)
        self.module.to(self.device)  # Lightning's teardown sends it to the CPU: what is drawn from here on would be drawn there

    def edit(self, record: dict) -> Edit:
        """What was made, with its record (Options.record)."""
        self.module.require_finite()
        tensors = self.module.trained_tensors()
        if self.options.lora is not None:
            part = "transformer" if hasattr(self.model.base, "transformer") else "unet"
            tensors = tensors_of(factors(tensors, *self.options.lora), part)
        return Edit(tensors, record)


def free_determinism() -> str | bool:
    """Lightning's `deterministic`: warn (deterministic algorithms wherever there are any) without a GPU, where that costs
    nothing; false with one."""
    return False if torch.cuda.is_available() else "warn"


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    packages = ("torch", "diffusers", "transformers", "pytorch-lightning", "erased-diffusion")
    return {"python": platform.python_version(), **{name: package_version(name) for name in packages}}


def package_version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # run from a checkout that was not installed
        return "not installed"
