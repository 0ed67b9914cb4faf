"""One training run, from its configuration to what it leaves: builds the objects, trains them, saves and judges."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch.utils.data import DataLoader

from esd import UserError, files
from esd.command.checks import option_errors
from esd.command.signals import IS_MAIN_PROCESS, Signals
from esd.edits.edit import save_edit
from esd.erasing import layers
from esd.erasing.concepts import Draws
from esd.erasing.erasure import Erasure
from esd.erasing.prompts import PromptTable
from esd.erasing.trajectories import WalkingSource
from esd.files import write_json
from esd.models.encoders import release_text_encoders
from esd.train.announcement import announce
from esd.train.build import edit_of, networks_of, optimizer_of, preserving_examples, source_of, trainer_of
from esd.train.callbacks import BeforeAfterGrids, Checkpoints, newest_checkpoint
from esd.train.loggers import build_loggers, finish_wandb, tolerate_upload_errors
from esd.train.ranks import die_with_parent, stop_other_ranks
from esd.train.record import collect_nondeterministic, record_of
from esd.train.run_prompts import check_lengths, concepts_of, grid_prompts
from esd.train.verdict import Verdict, log_verdict, objective, print_verdict, verdict_of

console = Console(highlight=False, quiet=not IS_MAIN_PROCESS)


def run(cfg: DictConfig, folder: Path, signals: Signals) -> float:
    """Train as configured; leaves edit.safetensors, grid.png and metrics.json in `folder`. Returns the objective."""
    if not IS_MAIN_PROCESS:
        die_with_parent()
    concepts, kept = concepts_of(cfg)
    with option_errors("layers"):
        rule = layers.LayerRule(**OmegaConf.to_container(cfg.layers, resolve=True))
    trainer, optimizer, schedule = trainer_of(cfg, folder), *optimizer_of(cfg)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a help for debugging, at a cost
    device, mixed = trainer.strategy.root_device, trainer.precision_plugin.forward_context
    model, student, trained = networks_of(cfg, rule)
    prompts, shown = PromptTable(model, concepts + kept, list(cfg.templates), device), grid_prompts(cfg, concepts)
    not_read = check_lengths(cfg, model, concepts, prompts.texts, console)
    with mixed():
        judged = verdict_of(cfg, concepts, kept, model, device)
    if cfg.model.path is not None:
        to_judge = [row.prompt for row in judged.rows] if isinstance(judged, Verdict) else []
        release_text_encoders(model, ["", *shown, *to_judge], model.encoders_again)
    sampler = model.sampler(cfg.sampling_steps)
    if cfg.gradient_checkpointing:
        student.enable_gradient_checkpointing()
    for denoiser in (model.denoiser, student) if cfg.compile else ():
        denoiser.compile()  # in place: the names of its weights stay
    for part in (model.denoiser, student, prompts, sampler):
        part.to(device)  # where a cache is rolled out
    parts = (model, sampler, prompts, cfg.guidance, model.denoiser, student)
    walks = WalkingSource(*parts)
    path, checkpoint = newest_checkpoint(folder) if cfg.resume else (None, None)
    done = checkpoint["global_step"] if checkpoint else 0
    if done > cfg.steps:
        raise UserError(f"steps={cfg.steps} is less than the {done} of the checkpoint in resume={folder}: give {done} or more")
    with mixed():
        announce(cfg, concepts, kept, walks, done, judged, folder, console)
    files.keep_new_folders()

    source = source_of(cfg, parts, walks, console)
    module = Erasure(model, student, trained, prompts, sampler, source, optimizer, schedule)
    checkpoints = Checkpoints(folder, cfg.checkpoint_every, cfg.checkpoint_minutes, signals)
    module.to(device)

    look = {"steps": min(30, cfg.sampling_steps), "guidance": cfg.guidance}
    grids = BeforeAfterGrids(folder, shown, cfg.grid_every, **look, console=console)
    grids.begin(trainer, model, student)  # the student is still the teacher
    trainer.callbacks += [grids, checkpoints]
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
        grids.draw(trainer, module)
        record = record_of(cfg, concepts, model.base_hash) | ({"not_read": not_read} if not_read else {})
        edit = edit_of(cfg, module, record)
        save_edit(folder / "edit.safetensors", edit)
        examples = cfg.steps * cfg.batch * trainer.world_size
        metrics = {"training_seconds": round(checkpoints.seconds, 2), "steps": cfg.steps, "examples": examples}
        metrics["not_deterministic"] = sorted(set(exceptions))
        if isinstance(judged, Verdict):
            with mixed():
                metrics |= {"precision": trainer.precision, **judged.give(model, student, console)}
        elif judged:
            metrics["not_judged"] = judged
        write_json(folder / "metrics.json", {**metrics, "record": edit.record})
        with tolerate_upload_errors(loggers):
            log_verdict(metrics, loggers, folder)
        labels = judged.protocol.labels if isinstance(judged, Verdict) else {}
        print_verdict(metrics, labels, folder, concepts[0].erase_from or concepts[0].text, console)
        return objective(metrics, cfg.objective)
    except BaseException:
        stop_other_ranks(trainer)
        raise
    finally:
        finish_wandb(loggers)
