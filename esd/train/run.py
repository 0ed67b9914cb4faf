"""One training run, from its configuration to what it leaves: builds the objects, trains them, saves and judges."""

from __future__ import annotations

import ctypes
import math
import platform
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from rich.console import Console
from rich.markup import escape
from torch.utils.data import DataLoader

from esd import UserError, files, models
from esd.command.checks import option_errors
from esd.command.signals import IS_MAIN_PROCESS, Signals
from esd.edits.edit import Edit, save_edit
from esd.erasing import layers
from esd.erasing.concepts import Concept, Draws
from esd.erasing.erasure import Erasure
from esd.erasing.prompts import PromptTable
from esd.erasing.trajectories import Cache, Pool, StudentWalks, WalkingSource
from esd.erasing.walk_store import WalkStore
from esd.erasing.walks import predict
from esd.files import write_json
from esd.models.hashes import fingerprint
from esd.sample.sampling import sample
from esd.train.callbacks import AtomicCheckpointIO, BeforeAfterGrids, Checkpoints, ErasingBar, newest_checkpoint
from esd.train.loggers import build_loggers, finish_wandb, tolerate_upload_errors
from esd.train.run_prompts import concepts_of, grid_prompts
from esd.train.verdict import log_verdict, objective, print_verdict, verdict

console = Console(highlight=False, quiet=not IS_MAIN_PROCESS)


def concept_template_pairs(prompts: PromptTable) -> list[tuple[int, int]]:
    """(concept, template) of all that is asked for; preserved prompts are taken as they stand."""
    return [(k, j) for k, concept in enumerate(prompts.concepts) for j in range(len(prompts.templates) if concept.eta else 1)]


def source_of(cfg: DictConfig, module_parts: tuple, walks: WalkingSource) -> StudentWalks | Pool | Cache:
    """The configured source of x_t."""
    kind = cfg.trajectories.name
    if kind == "student":
        return StudentWalks(*module_parts)
    if kind == "pool":
        return Pool(*module_parts, walker=cfg.trajectories.walker)
    options = cfg.trajectories
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}[options.dtype]
    store = WalkStore(options.folder, options.walks, options.seed, dtype, options.chunk, options.limit)
    prompts, pairs = walks.prompts, concept_template_pairs(walks.prompts)
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Rolling out", total=len(pairs) * options.walks * len(walks.sampler))
        found = {pair: store.get(walks, *pair, lambda n: progress.advance(task, n)) for pair in pairs}
    walks.model.denoiser.cpu()  # what the student shares with it goes back to the device with the student
    rows = [
        [found[k, j if (k, j) in found else 0] for j in range(len(prompts.templates))] for k in range(len(prompts.concepts))
    ]
    return Cache(rows, prompts)


def forwards_per_example(cfg: DictConfig) -> float:
    """Forwards of an example, on average; the student's own, with its backward, counts as three."""
    n = cfg.sampling_steps
    walking = {"student": n - 1 + 2, "pool": 2 if cfg.trajectories.get("walker") == "frozen" else 4, "cache": 0}
    return walking[cfg.trajectories.name] + 3


def preserving_examples(cfg: DictConfig, kept: list[Concept]) -> int:
    """Examples of a step that preserve."""
    return (cfg.preserve_batch or cfg.batch) if kept else 0


@torch.inference_mode()
def estimated_seconds(cfg: DictConfig, kept: list[Concept], walks: WalkingSource, device: torch.device) -> float:
    """What the training will roughly take: one batch, timed after a first that warms up."""
    rows = torch.zeros(cfg.batch + preserving_examples(cfg, kept), dtype=torch.int64, device=device)
    x = walks.model.noise(rows).to(device)
    for _ in range(2):
        started = time.perf_counter()
        predict(walks.model, walks.student, walks.sampler, x, rows, walks.prompts.condition(rows))[0].sum().item()
        one = time.perf_counter() - started
    warm_up = cfg.sampling_steps / Pool.STRIDE if cfg.trajectories.name == "pool" else 0
    return one * (cfg.steps * forwards_per_example(cfg) + warm_up)


def announce(
    cfg: DictConfig, concepts: list[Concept], kept: list[Concept], walks: WalkingSource, device: torch.device, folder: Path
) -> None:
    """What will happen, before it does."""
    moved = [p.numel() for p in walks.student.parameters() if p.requires_grad]
    total = sum(p.numel() for p in walks.student.parameters())
    what = ", ".join(f"'{c.text}'" + (f" from '{c.erase_from}'" if c.erase_from else "") for c in concepts[:8])
    what += f" and {len(concepts) - 8} more" if len(concepts) > 8 else ""
    beside = f" and {preserving_examples(cfg, kept)} that preserve" if kept else ""
    rows = {
        "Erase": f"{what} from {cfg.model.name}, η = {cfg.eta:g}"
        + (f", preserving {len(kept)} prompt{'s' * (len(kept) > 1)}" if kept else ""),
        "Train": f"{cfg.layers.name}: {sum(moved):,} of {total:,} parameters in {len(moved)} tensors",
        "Examples": f"{cfg.steps} steps of {cfg.batch}{beside}; x_t from {cfg.trajectories.name}, "
        f"{forwards_per_example(cfg)} forwards each; roughly {max(1, round(estimated_seconds(cfg, kept, walks, device)))} s on {device}",
    }
    if cfg.trajectories.name == "cache":
        count, where = cfg.trajectories.walks * len(concept_template_pairs(walks.prompts)), cfg.trajectories.folder
        rows["Walks"] = f"{count} of {cfg.sampling_steps} steps each, rolled out first where {where} does not hold them"
    rows["Results"] = str(folder)
    for name, text in rows.items():
        console.print(f"[bold]{name:9}[/] {escape(text)}", soft_wrap=True)


def record_of(cfg: DictConfig, concepts: list[Concept], base_hash: str) -> dict:
    """All that an edit depends on, for its header; nothing else, so that a run that was interrupted leaves the same file."""
    packages = ("torch", "diffusers", "transformers", "pytorch-lightning", "erased-diffusion")
    chosen = OmegaConf.to_container(cfg, resolve=True)
    return {
        "base": cfg.model.name if cfg.model.path is None else str(cfg.model.path),
        "base_hash": base_hash,
        "concept": [concept.text for concept in concepts],
        "erase_from": [concept.erase_from for concept in concepts],
        "templates": list(cfg.templates),
        "eta": cfg.eta,
        "layers": cfg.layers.name,
        "trajectories": chosen["trajectories"],
        "guidance": cfg.guidance,
        "sampling_steps": cfg.sampling_steps,
        "steps": cfg.steps,
        "batch": cfg.batch,
        "lr": cfg.lr,
        "seed": cfg.seed,
        "preserve": chosen["preserve"],
        "preserve_weight": cfg.preserve_weight,
        "preserve_batch": cfg.preserve_batch or cfg.batch,
        "optimizer": chosen["optimizer"],
        "schedule": chosen["schedule"],
        "precision": str(chosen["trainer"]["precision"]),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "command": shlex.join(["python", "-m", "esd.train", *without_resume(HydraConfig.get().overrides.task)]),
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in packages}},
    }


def without_resume(task: Iterable[str]) -> list[str]:
    """What a run was asked for, without what it goes on from."""
    return [option for option in task if not option.startswith("resume=")]


def package_version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # run from a checkout that was not installed
        return "not installed"


def die_with_parent() -> None:
    """On Linux, end this rank where the first is gone: a collective may wait for it for half an hour."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextmanager
def collect_nondeterministic() -> Iterator[list[str]]:
    """The operations that torch says it has no deterministic algorithm for, collected; other warnings are shown as ever."""
    found: list[str] = []
    shown = warnings.showwarning

    def show(message, *args, **kwargs) -> None:
        text = str(message)
        if "does not have a deterministic implementation" in text:
            found.append(text.split()[0])
        else:
            shown(message, *args, **kwargs)

    warnings.showwarning = show
    try:
        yield found
    finally:
        warnings.showwarning = shown


def stop_other_ranks(trainer: Trainer) -> None:
    """End the other ranks, which would wait for this one. Lightning's observer kills this process, too, where one ends
    badly, unless it has none left to watch."""
    others = getattr(trainer.strategy.launcher, "procs", [])
    while others:
        others.pop().kill()


def trainer_of(cfg: DictConfig, folder: Path) -> Trainer:
    """The configured trainer. Raises UserError for a device, a precision or an option that it cannot have."""
    with option_errors("trainer"):
        return instantiate(
            cfg.trainer,
            _convert_="all",
            max_steps=cfg.steps,
            limit_train_batches=cfg.steps,
            logger=False,
            callbacks=[ErasingBar(refresh_rate=5)],
            plugins=[AtomicCheckpointIO()],
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )


def optimizer_of(cfg: DictConfig) -> tuple[Callable, Callable]:
    """What makes the optimiser and its schedule, tried out on one number. Raises UserError for an option they have not."""
    with option_errors("optimizer, schedule"):
        optimizer, schedule = instantiate(cfg.optimizer), instantiate(cfg.schedule)
        schedule(optimizer([torch.nn.Parameter(torch.zeros(()))]))
    return optimizer, schedule


def run(cfg: DictConfig, folder: Path, signals: Signals) -> float:
    """Train as configured; leaves edit.safetensors, grid.png and metrics.json in `folder`. Returns the objective."""
    if not IS_MAIN_PROCESS:
        die_with_parent()
    concepts, kept = concepts_of(cfg)
    with option_errors("layers"):
        rule = layers.LayerRule(**OmegaConf.to_container(cfg.layers, resolve=True))
    trainer, optimizer, schedule = trainer_of(cfg, folder), *optimizer_of(cfg)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a help for debugging, at a cost
    model = models.load(cfg.model.path, cfg.model.name)
    trained = layers.select_parameters(model.denoiser, rule)
    base_hash = fingerprint(model.denoiser)
    prompts = PromptTable(model, concepts + kept, list(cfg.templates))
    sampler = model.sampler(cfg.sampling_steps)
    student = layers.student_of(model.denoiser, trained)
    if cfg.gradient_checkpointing:
        student.enable_gradient_checkpointing()
    for denoiser in (model.denoiser, student) if cfg.compile else ():
        denoiser.compile()  # in place: the names of its weights stay
    device, mixed = trainer.strategy.root_device, trainer.precision_plugin.forward_context
    for part in (model.denoiser, student, prompts, sampler):
        part.to(device)  # where a cache is rolled out
    parts = (model, sampler, prompts, cfg.guidance, model.denoiser, student)
    walks = WalkingSource(*parts)
    with mixed():
        announce(cfg, concepts, kept, walks, device, folder)
    files.keep_new_folders()

    source = source_of(cfg, parts, walks)
    module = Erasure(model, student, trained, prompts, sampler, source, optimizer, schedule)
    checkpoints = Checkpoints(folder, cfg.checkpoint_every, cfg.checkpoint_minutes, signals)
    module.to(device)

    shown = grid_prompts(cfg, concepts)
    look = {"steps": min(30, cfg.sampling_steps), "guidance": cfg.guidance}
    with mixed():
        before = sample(model, student, shown, range(len(shown)), **look)  # the student is still the teacher
    grids = BeforeAfterGrids(folder, shown, before, cfg.grid_every, **look)
    trainer.callbacks += [grids, checkpoints]
    path, checkpoint = newest_checkpoint(folder) if cfg.resume else (None, None)
    done = checkpoint["global_step"] if checkpoint else 0
    if done > cfg.steps:
        raise UserError(f"steps={cfg.steps} is less than the {done} of the checkpoint in resume={folder}: give {done} or more")
    loggers = build_loggers(cfg, folder) if IS_MAIN_PROCESS else []  # last: from here on it must be finished
    try:
        trainer.loggers = loggers
        draws = Draws(
            concepts=len(concepts), templates=len(cfg.templates), positions=len(sampler), batch=cfg.batch, seed=cfg.seed,
            preserved=len(kept), preserved_batch=preserving_examples(cfg, kept),
            walks=cfg.trajectories.get("walks"), staggered=cfg.trajectories.name == "pool",
            rank=trainer.global_rank, world=trainer.world_size, start=done,
        )  # fmt: skip
        with collect_nondeterministic() as exceptions:
            trainer.fit(module, DataLoader(draws, batch_size=None), ckpt_path=path, weights_only=True)
        if not trainer.is_global_zero:
            return math.nan
        if done == cfg.steps:  # nothing was left to train, and Lightning calls no callback
            grids.draw(trainer, module)
        edit = Edit(module.trained_tensors(), record_of(cfg, concepts, base_hash))
        save_edit(folder / "edit.safetensors", edit)
        examples = cfg.steps * cfg.batch * trainer.world_size
        metrics = {"training_seconds": round(checkpoints.seconds, 2), "steps": cfg.steps, "examples": examples}
        metrics["not_deterministic"] = sorted(set(exceptions))
        if cfg.evaluate and cfg.model.name == "emoji":
            asked = [c.text for c in concepts], [c.erase_from for c in concepts]
            with mixed():
                metrics |= {"precision": trainer.precision, **verdict(model, student, base_hash, *asked, console)}
        write_json(folder / "metrics.json", {**metrics, "record": edit.record})
        with tolerate_upload_errors(loggers):
            log_verdict(metrics, loggers, folder)
        print_verdict(metrics, folder, concepts[0].erase_from or concepts[0].text, console)
        return objective(metrics, cfg.objective)
    except BaseException:
        stop_other_ranks(trainer)
        raise
    finally:
        finish_wandb(loggers)
