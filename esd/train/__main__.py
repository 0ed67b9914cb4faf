"""python -m esd.train concept=nudity eta=1.0: erase a concept. See conf/train.yaml for the options."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from esd import UserError
from esd.command.checks import texts
from esd.command.entry import command
from esd.command.model import check_model
from esd.command.signals import IS_MAIN_PROCESS, Interrupted, Signals
from esd.command.words import command_line
from esd.files import atomic_write, is_disk_full, remove_partial_files
from esd.models.quiet import silence_libraries
from esd.train import sweeps
from esd.train.announcement import announce_erasing
from esd.train.options import AUTO, as_found_before, check_train_options, is_to_be_found
from esd.train.resume import resumed_run, without_resume


def resume_arguments(arguments: list[str]) -> list[str]:
    """resume=<run folder>: that run's own options, in its own folder; images=<folder>: the source that takes pictures.
    experiment=null is what stands in conf/train.yaml, but typed it ends in a traceback of Hydra's."""
    arguments = with_pictures([argument for argument in arguments if argument != "experiment=null"])
    if any(argument in ("-m", "--multirun") for argument in arguments):
        return sweeps.with_sweep_folder(arguments)
    if not IS_MAIN_PROCESS:  # Lightning starts further ranks with the first one's arguments, and the first keeps the log
        return [*arguments, "hydra/job_logging=stdout"]
    folder = next((argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")), "")
    return arguments if folder in ("", "null") else resumed_run(folder, arguments)


def with_pictures(arguments: list[str]) -> list[str]:
    """images=<folder> as Hydra takes it; the concept's text is to be found where nothing that was typed may name it."""
    options = dict(argument.partition("=")[::2] for argument in arguments)
    if "images" not in options:
        return arguments
    named = {"concept", "experiment", "--config-name", "-cn"} & set(options)
    named = named or options.get("resume", "null") not in ("", "null", "true")  # a folder, whose run has its concept
    pictures = ["trajectories=pictures", f"trajectories.images={options['images']}", *([] if named else [f"concept={AUTO}"])]
    at = next(i for i, argument in enumerate(arguments) if argument.startswith("images="))
    return [*arguments[:at], *pictures, *arguments[at + 1 :]]


def record_resumed_options(folder: Path, cfg: DictConfig, task: list[str]) -> None:
    """Write down what a resumed run was asked for beside its own options: it may have to go on once more."""
    for name, content in (("config", cfg), ("overrides", OmegaConf.create(task))):
        with atomic_write(folder / ".hydra" / f"{name}.yaml") as temporary:
            temporary.write_text(OmegaConf.to_yaml(content), encoding="utf-8")


def finished_objective(cfg: DictConfig, folder: Path, sweep: bool) -> float | None:
    """The objective of a run that is finished, of which nothing is left to do; None of any other."""
    silence_libraries()
    from esd.train.announcement import console  # here: launchers send this module's globals to their processes, by pickle
    from esd.train.record import finished_metrics
    from esd.train.run_prompts import erased_concepts
    from esd.train.verdict import Short, objective, short_protocol

    metrics = finished_metrics(folder, cfg)
    judge = short_protocol(cfg, erased_concepts(cfg)) if metrics and "edit" not in metrics else None
    if not metrics or isinstance(judge, Short):  # finished but for its verdict
        return None
    why = f"; not judged: {judge}" if judge else ""
    if not sweep:
        console.print(f"Nothing is left to do: {folder} is finished{why}", soft_wrap=True, markup=False)
    return objective(metrics, cfg.objective)


OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "could not create a primitive")  # the last: oneDNN's


def in_one_line(error: Exception, cfg: DictConfig) -> Exception:
    """What may befall a run that is right in itself, in one line; any other error as it is."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, FloatingPointError):
        return UserError(str(error))
    if is_disk_full(error):
        return UserError(f"no space left on the disk ({error}): make room and go on with resume=<the run's folder>")
    if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY):
        return UserError(
            f"out of memory: lower batch (now {cfg.batch}), or use trajectories=cache (no frozen model in memory), "
            f"model.dtype=bf16 (now {cfg.model.dtype}), lora.rank=16, layers=esd-x (fewer weights to train) or "
            f"gradient_checkpointing=true (now {cfg.layers.name}, {cfg.trajectories.name})"
        )
    return error


@command("train", resume_arguments)
def main(cfg: DictConfig) -> float:
    check_train_options(cfg)
    if cfg.model.name == "emoji" and (cfg.model.path is None or cfg.evaluate):  # its judge knows its words only
        from esd.emoji.subject import subject

        for option in ("erase_from",) if is_to_be_found(cfg) else ("concept", "erase_from"):
            for text in texts(cfg[option], option) if cfg[option] else []:
                subject(text, option)
    check_model(cfg.model)

    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN and cfg.trainer.devices not in (1, "1"):
        raise UserError(
            f"trainer.devices={cfg.trainer.devices} under --multirun: a sweep runs each job on one device (a launcher spreads "
            "the jobs); several devices are for single runs"
        )

    hydra = HydraConfig.get()
    folder, sweep = Path(hydra.runtime.output_dir), hydra.mode == RunMode.MULTIRUN
    with Signals() as signals:
        try:
            if cfg.resume and IS_MAIN_PROCESS:
                remove_partial_files(folder)
            cfg = as_found_before(cfg, folder)
            if cfg.resume and (finished := finished_objective(cfg, folder, sweep)) is not None:
                return finished
            if cfg.resume and IS_MAIN_PROCESS and not sweep:
                record_resumed_options(folder, cfg, without_resume(hydra.overrides.task))
            announce_erasing(cfg)
            silence_libraries()  # from here on they are loaded, which takes seconds
            from esd.train.run import run

            return run(cfg, folder, signals)
        except Interrupted as stop:
            if IS_MAIN_PROCESS:
                where = ["-m", f"resume={hydra.sweep.dir}"] if sweep else [f"resume={folder}"]
                print(f"stopped by {stop.name}; to go on: {command_line('esd.train', *where)}", file=sys.stderr)
            raise
        except Exception as error:
            if (clear := in_one_line(error, cfg)) is error:
                raise
            raise clear from None


if __name__ == "__main__":
    main()
