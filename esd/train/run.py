"""One training run, from its configuration to what it leaves: builds the objects, trains them, saves and judges."""

from __future__ import annotations

import math
from pathlib import Path

from omegaconf import DictConfig

from esd import UserError, files
from esd.command.model import denoiser_without_weights, load_model
from esd.command.progress import progress
from esd.command.signals import IS_MAIN_PROCESS, Signals
from esd.erasing.run import Run, check_lora_fits
from esd.files import write_json
from esd.models.encoders import release_text_encoders
from esd.train.announcement import announce, console, grid_steps
from esd.train.build import options_of, trainer_of
from esd.train.callbacks import BeforeAfterGrids, Checkpoints, checkpoint_record, newest_checkpoint
from esd.train.curves import Curves
from esd.train.found import with_found_text
from esd.train.loggers import build_loggers, finish_wandb, tolerate_upload_errors
from esd.train.options import is_to_be_found
from esd.train.ranks import die_with_parent, stop_other_ranks
from esd.train.record import check_same_run, collect_nondeterministic, previous_metrics, record_of
from esd.train.run_prompts import check_lengths, grid_prompts
from esd.train.verdict import (
    Verdict,
    check_curve,
    check_objective,
    log_verdict,
    objective,
    print_verdict,
    short_protocol,
    verdict_of,
)


def run(cfg: DictConfig, folder: Path, signals: Signals) -> float:
    """Train as configured; leaves edit.safetensors, grid.png and metrics.json in `folder`. Returns the objective."""
    if not IS_MAIN_PROCESS:
        die_with_parent()
    options, trainer, model = options_of(cfg), trainer_of(cfg, folder), None
    if is_to_be_found(cfg):
        model = load_model(cfg.model, options.dtype_loaded)
        cfg = with_found_text(cfg, model, options.trajectories, trainer, folder)
        options, trainer = options_of(cfg), trainer_of(cfg, folder)  # its steps, what it spares: by the text
    concepts, shown = options.concepts, grid_prompts(cfg, options.concepts)
    protocol = short_protocol(cfg, concepts)
    check_objective(cfg, protocol)
    check_curve(cfg, protocol)
    if options.lora and (denoiser := denoiser_without_weights(cfg.model)):
        check_lora_fits(denoiser, options)
    model = model or load_model(cfg.model, options.dtype_loaded)
    erasure, mixed = Run(model, options, trainer), trainer.precision_plugin.forward_context
    not_read = check_lengths(cfg, model, concepts, erasure.prompts.texts, console)
    record = record_of(cfg, options, model.base_hash, trainer.world_size, not_read)
    with mixed():
        judged = verdict_of(protocol, concepts, options.preserved, model, erasure.device)
    if hasattr(model, "encoders_again") and cfg.model.path is not None:
        to_judge = [row.prompt for row in judged.rows] if isinstance(judged, Verdict) else []
        release_text_encoders(model, ["", *shown, *to_judge], model.encoders_again, erasure.device)
    path, checkpoint = newest_checkpoint(folder) if cfg.resume else (None, None)
    done = checkpoint["global_step"] if checkpoint else 0
    if done > cfg.steps:
        raise UserError(f"steps={cfg.steps} is less than the {done} of the checkpoint in resume={folder}: give {done} or more")
    if checkpoint:
        check_same_run(folder, checkpoint_record(checkpoint), record)
    before_this = previous_metrics(folder, record) if cfg.resume else {}
    with mixed():
        announce(cfg, erasure, done, judged, folder)
    files.keep_new_folders()

    with progress(console, "steps") as bar:
        task = bar.add_task("Rolling out", visible=False)
        erasure.begin(lambda n, total: bar.update(task, advance=n, total=total, visible=True))
    checkpoints = Checkpoints(folder, cfg.checkpoint_every, cfg.checkpoint_minutes, signals, record)
    look = {
        "steps": grid_steps(cfg),
        "sampler": cfg.model.get("picture_sampler", "own"),
        "guidance": cfg.model.get("picture_guidance", cfg.guidance),
    }
    given = getattr(erasure.trajectories, "given", None)  # beside the pictures of what is erased, which stand first
    given = None if given is None else given[: cfg.grid - cfg.grid // 2]
    grids = BeforeAfterGrids(folder, shown, cfg.grid_every, look, console, given)
    grids.begin(trainer, model, erasure.student)  # the student is still the teacher
    curves = [Curves(judged, cfg.curve_every, cfg.stop == "auto")] if cfg.curve_every else []
    trainer.callbacks += [grids, *curves, checkpoints]  # behind LoggedFigures: what is logged lies on disk before a checkpoint
    loggers = build_loggers(cfg, folder) if IS_MAIN_PROCESS else []  # last: from here on it must be finished
    try:
        trainer.loggers = loggers
        with collect_nondeterministic() as exceptions:
            erasure.fit(path, done)
        if not trainer.is_global_zero:
            return math.nan
        seconds = max(round(checkpoints.seconds, 2), before_this.get("training_seconds", 0))
        edit = erasure.edit(record)
        edit.save(folder / "edit.safetensors")
        grids.draw(trainer, erasure.module)
        steps = trainer.global_step
        metrics = {**before_this, "training_seconds": seconds, "steps": steps}
        metrics["examples"] = steps * cfg.batch * trainer.world_size
        if steps < cfg.steps:
            metrics["stopped"] = f"at step {steps} of {cfg.steps}: the concept was seen in none of the pictures, twice in a row"
        metrics["not_deterministic"] = sorted({*exceptions, *before_this.get("not_deterministic", [])})
        if isinstance(judged, Verdict):
            with mixed():
                metrics |= {"precision": trainer.precision, **judged.give(model, erasure.student, console)}
        elif judged and "edit" not in metrics:
            metrics["not_judged"] = judged
        if "edit" in metrics:
            metrics.pop("not_judged", None)
        with tolerate_upload_errors(loggers):
            log_verdict(metrics, loggers, folder)
        write_json(folder / "metrics.json", {**metrics, "record": edit.record})  # last: it says that the run is finished
        labels = judged.protocol.labels if isinstance(judged, Verdict) else {}
        print_verdict(metrics, labels, folder, concepts[0].erase_from or concepts[0].text, console)
    except BaseException as error:
        stop_other_ranks(trainer)
        finish_wandb(loggers, error)
        raise
    finish_wandb(loggers)
    return objective(metrics, cfg.objective)
