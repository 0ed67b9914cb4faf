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

from esd import layers, models
from esd.asked import concepts_of, pictured
from esd.cache import Store
from esd.callbacks import Bar, Checkpoints, Grids, WholeFiles, newest
from esd.command import Mistake, in_use
from esd.concepts import Concept, Draws
from esd.config import made_of
from esd.edits import Edit, fingerprint, save_edit
from esd.erasure import Erasure
from esd.files import write_json
from esd.loggers import build_loggers, finish, lenient
from esd.phrases import Phrases
from esd.sampling import sample
from esd.signals import FIRST, Signals
from esd.trajectories import Cache, Fresh, Pool, Walks
from esd.verdict import log, objective, report, verdict
from esd.walks import predict

console = Console(highlight=False, quiet=not FIRST)


def pairs_of(phrases: Phrases) -> list[tuple[int, int]]:
    """(concept, template) of all that is asked for; preserved prompts are taken as they stand."""
    return [(k, j) for k, concept in enumerate(phrases.concepts) for j in range(len(phrases.templates) if concept.eta else 1)]


def source_of(cfg: DictConfig, module_parts: tuple, walks: Walks) -> Fresh | Pool | Cache:
    """The configured source of x_t."""
    kind = cfg.trajectories.name
    if kind == "student":
        return Fresh(*module_parts)
    if kind == "pool":
        return Pool(*module_parts, walker=cfg.trajectories.walker)
    options = cfg.trajectories
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}[options.dtype]
    store = Store(options.folder, options.walks, options.seed, dtype, options.chunk, options.limit)
    phrases, pairs = walks.phrases, pairs_of(walks.phrases)
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Rolling out", total=len(pairs) * options.walks * len(walks.sampler))
        found = {pair: store.get(walks, *pair, lambda n: progress.advance(task, n)) for pair in pairs}
    walks.model.denoiser.cpu()  # what the student shares with it goes back to the device with the student
    rows = [
        [found[k, j if (k, j) in found else 0] for j in range(len(phrases.templates))] for k in range(len(phrases.concepts))
    ]
    return Cache(rows, phrases)


def forwards(cfg: DictConfig) -> float:
    """Forwards of an example, on average; the student's own, with its backward, counts as three."""
    n = cfg.sampling_steps
    walking = {"student": n - 1 + 2, "pool": 2 if cfg.trajectories.get("walker") == "frozen" else 4, "cache": 0}
    return walking[cfg.trajectories.name] + 3


def preserving(cfg: DictConfig, kept: list[Concept]) -> int:
    """Examples of a step that preserve."""
    return (cfg.preserve_batch or cfg.batch) if kept else 0


@torch.inference_mode()
def seconds_of(cfg: DictConfig, kept: list[Concept], walks: Walks, device: torch.device) -> float:
    """What the training will roughly take: one batch, timed after a first that warms up."""
    rows = torch.zeros(cfg.batch + preserving(cfg, kept), dtype=torch.int64, device=device)
    x = walks.model.noise(rows).to(device)
    for _ in range(2):
        started = time.perf_counter()
        predict(walks.model, walks.student, walks.sampler, x, rows, walks.phrases.condition(rows))[0].sum().item()
        one = time.perf_counter() - started
    warm_up = cfg.sampling_steps / Pool.STRIDE if cfg.trajectories.name == "pool" else 0
    return one * (cfg.steps * forwards(cfg) + warm_up)


def announce(
    cfg: DictConfig, concepts: list[Concept], kept: list[Concept], walks: Walks, device: torch.device, folder: Path
) -> None:
    """What will happen, before it does."""
    moved = [p.numel() for p in walks.student.parameters() if p.requires_grad]
    total = sum(p.numel() for p in walks.student.parameters())
    what = ", ".join(f"'{c.text}'" + (f" from '{c.erase_from}'" if c.erase_from else "") for c in concepts[:8])
    what += f" and {len(concepts) - 8} more" if len(concepts) > 8 else ""
    beside = f" and {preserving(cfg, kept)} that preserve" if kept else ""
    rows = {
        "Erase": f"{what} from {cfg.model.name}, η = {cfg.eta:g}"
        + (f", preserving {len(kept)} prompt{'s' * (len(kept) > 1)}" if kept else ""),
        "Train": f"{cfg.layers.name}: {sum(moved):,} of {total:,} parameters in {len(moved)} tensors",
        "Examples": f"{cfg.steps} steps of {cfg.batch}{beside}; x_t from {cfg.trajectories.name}, {forwards(cfg)} forwards "
        f"each; roughly {max(1, round(seconds_of(cfg, kept, walks, device)))} s on {device}",
    }
    if cfg.trajectories.name == "cache":
        count, where = cfg.trajectories.walks * len(pairs_of(walks.phrases)), cfg.trajectories.folder
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
        "command": shlex.join(["python", "-m", "esd.train", *options(HydraConfig.get().overrides.task)]),
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in packages}},
    }


def options(task: Iterable[str]) -> list[str]:
    """What a run was asked for, without what it goes on from."""
    return [option for option in task if not option.startswith("resume=")]


def installed(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # run from a checkout that was not installed
        return "not installed"


def die_with_parent() -> None:
    """On Linux, end this rank where the first is gone: a collective may wait for it for half an hour."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextmanager
def undetermined() -> Iterator[list[str]]:
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


def dismiss(trainer: Trainer) -> None:
    """End the other ranks, which would wait for this one. Lightning's observer kills this process, too, where one ends
    badly, unless it has none left to watch."""
    others = getattr(trainer.strategy.launcher, "procs", [])
    while others:
        others.pop().kill()


def trainer_of(cfg: DictConfig, folder: Path) -> Trainer:
    """The configured trainer. Raises Mistake for a device, a precision or an option that it cannot have."""
    with made_of("trainer"):
        return instantiate(
            cfg.trainer,
            _convert_="all",
            max_steps=cfg.steps,
            limit_train_batches=cfg.steps,
            logger=False,
            callbacks=[Bar(refresh_rate=5)],
            plugins=[WholeFiles()],
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )


def learner_of(cfg: DictConfig) -> tuple[Callable, Callable]:
    """What makes the optimiser and its schedule, tried out on one number. Raises Mistake for an option they have not."""
    with made_of("optimizer, schedule"):
        optimizer, schedule = instantiate(cfg.optimizer), instantiate(cfg.schedule)
        schedule(optimizer([torch.nn.Parameter(torch.zeros(()))]))
    return optimizer, schedule


def run(cfg: DictConfig, folder: Path, signals: Signals) -> float:
    """Train as configured; leaves edit.safetensors, grid.png and metrics.json in `folder`. Returns the objective."""
    if not FIRST:
        die_with_parent()
    concepts, kept = concepts_of(cfg)
    with made_of("layers"):
        rule = layers.Rule(**OmegaConf.to_container(cfg.layers, resolve=True))
    trainer, optimizer, schedule = trainer_of(cfg, folder), *learner_of(cfg)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a help for debugging, at a cost
    model = models.load(cfg.model.path, cfg.model.name)
    trained = layers.select(model.denoiser, rule)
    base_hash = fingerprint(model.denoiser)
    phrases = Phrases(model, concepts + kept, list(cfg.templates))
    sampler = model.sampler(cfg.sampling_steps)
    student = layers.student_of(model.denoiser, trained)
    if cfg.gradient_checkpointing:
        student.enable_gradient_checkpointing()
    for denoiser in (model.denoiser, student) if cfg.compile else ():
        denoiser.compile()  # in place: the names of its weights stay
    device, mixed = trainer.strategy.root_device, trainer.precision_plugin.forward_context
    for part in (model.denoiser, student, phrases, sampler):
        part.to(device)  # where a cache is rolled out
    parts = (model, sampler, phrases, cfg.guidance, model.denoiser, student)
    walks = Walks(*parts)
    with mixed():
        announce(cfg, concepts, kept, walks, device, folder)
    in_use()

    source = source_of(cfg, parts, walks)
    module = Erasure(model, student, trained, phrases, sampler, source, optimizer, schedule)
    checkpoints = Checkpoints(folder, cfg.checkpoint_every, cfg.checkpoint_minutes, signals)
    module.to(device)

    shown = pictured(cfg, concepts)
    look = {"steps": min(30, cfg.sampling_steps), "guidance": cfg.guidance}
    with mixed():
        before = sample(model, student, shown, range(len(shown)), **look)  # the student is still the teacher
    grids = Grids(folder, shown, before, cfg.grid_every, **look)
    trainer.callbacks += [grids, checkpoints]
    path, checkpoint = newest(folder) if cfg.resume else (None, None)
    done = checkpoint["global_step"] if checkpoint else 0
    if done > cfg.steps:
        raise Mistake(f"steps={cfg.steps} is less than the {done} of the checkpoint in resume={folder}: give {done} or more")
    loggers = build_loggers(cfg, folder) if FIRST else []  # last: from here on it must be finished
    try:
        trainer.loggers = loggers
        draws = Draws(
            concepts=len(concepts), templates=len(cfg.templates), positions=len(sampler), batch=cfg.batch, seed=cfg.seed,
            preserved=len(kept), preserved_batch=preserving(cfg, kept),
            walks=cfg.trajectories.get("walks"), staggered=cfg.trajectories.name == "pool",
            rank=trainer.global_rank, world=trainer.world_size, start=done,
        )  # fmt: skip
        with undetermined() as exceptions:
            trainer.fit(module, DataLoader(draws, batch_size=None), ckpt_path=path, weights_only=True)
        if not trainer.is_global_zero:
            return math.nan
        if done == cfg.steps:  # nothing was left to train, and Lightning calls no callback
            grids.draw(trainer, module)
        edit = Edit(module.edit(), record_of(cfg, concepts, base_hash))
        save_edit(folder / "edit.safetensors", edit)
        examples = cfg.steps * cfg.batch * trainer.world_size
        metrics = {"training_seconds": round(checkpoints.seconds, 2), "steps": cfg.steps, "examples": examples}
        metrics["not_deterministic"] = sorted(set(exceptions))
        if cfg.evaluate and cfg.model.name == "emoji":
            asked = [c.text for c in concepts], [c.erase_from for c in concepts]
            with mixed():
                metrics |= {"precision": trainer.precision, **verdict(model, student, base_hash, *asked, console)}
        write_json(folder / "metrics.json", {**metrics, "record": edit.record})
        with lenient(loggers):
            log(metrics, loggers, folder)
        report(metrics, folder, concepts[0].erase_from or concepts[0].text, console)
        return objective(metrics, cfg.objective)
    except BaseException:
        dismiss(trainer)
        raise
    finally:
        finish(loggers)
