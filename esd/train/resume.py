"""Going on from a run or a sweep: its own options, in its own folder, composed from what it was composed from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esd import UserError
from esd.command.words import hydra_literal, quote_free_text

BESIDE = (  # options that the edit does not depend on
    "resume", "checkpoint_", "curve_every", "grid", "evaluate", "objective", "logger", "trainer", "gradient_checkpointing",
    "hydra",
)  # fmt: skip
OF_THE_EDIT = ("trainer.precision", "trainer.gradient_clip")  # nevertheless
OF_DEVICES = ("trainer", "trainer.devices", "trainer.strategy", "trainer.num_nodes")  # likewise, where there are several
CHANGEABLE = (*BESIDE, "steps")  # what may change when a run goes on


def named(option: str) -> str:
    return option.lstrip("+").partition("=")[0]


def is_beside(option: str) -> bool:
    """Whether the edit is the same without this option."""
    return named(option).startswith(BESIDE) and not named(option).startswith(OF_THE_EDIT)


def each_once(options: Iterable[str]) -> list[str]:
    """Of an option that is there twice the later value, in the earlier's place."""
    found: dict[str, str] = {}
    for option in options:
        key = named(option)
        found[key] = f"+{option}" if found.get(key, "").startswith("+") and not option.startswith("+") else option
    return list(found.values())


def edit_options(task: Iterable[str], devices: int = 1, stops: bool = False) -> list[str]:
    """Of what a run was asked for, what its edit depends on. stops: whether it ends where its curve says."""
    also = (OF_DEVICES if devices > 1 else ()) + (("curve_every",) if stops else ())
    return [option for option in each_once(task) if not is_beside(option) or named(option) in also]


def without_resume(task: Iterable[str]) -> list[str]:
    """What a run was asked for, without what it goes on from."""
    return [option for option in each_once(task) if named(option) != "resume"]


def split_flags(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and options."""
    flags: list[str] = []
    options: list[str] = []
    for argument in arguments:
        (flags if argument.startswith("-") or "=" not in argument.lstrip("~") else options).append(argument)
    return flags, options


def check_changeable(asked: Sequence[str], own: Sequence[str], multirun: bool) -> None:
    """Raises UserError where an option would change the edit of a run that has begun."""
    for option in asked:
        name = named(option)
        if quote_free_text(option, multirun) in own:
            continue
        if not name.startswith(CHANGEABLE) or name.startswith(OF_THE_EDIT[1:]):  # of precision the checkpoint says
            raise UserError(f"{name} is fixed once a run has begun: leave it out beside resume=, or start a new run")
        if name == "steps" and "schedule=cosine" in own:
            raise UserError("steps is fixed once a run with schedule=cosine has begun: its learning rate has run down to 0")


def composed_from(file: Path, flags: Sequence[str], options: Sequence[str]) -> list[str]:
    """The arguments that name what a run's configuration was composed from beside this package's: --config-dir,
    hydra.searchpath, --config-name. Nothing where they are given anew, or the file does not say (it was cut short).

    file: hydra.yaml, or a sweep's multirun.yaml. Raises UserError where a folder is gone.
    """
    try:
        hydra = OmegaConf.load(file).hydra
        name, sources = hydra.job.config_name, list(hydra.runtime.config_sources)
    except (OSError, OmegaConfBaseException, yaml.YAMLError, AttributeError):
        return []
    found = []
    if name != "train" and not any(flag.startswith(("--config-name", "-cn")) for flag in flags):
        found.append(f"--config-name={name}")
    anew = any(flag.startswith(("--config-dir", "-cd")) for flag in flags) or any(
        named(option) == "hydra.searchpath" for option in options
    )
    its = [source for source in sources if source.provider not in ("hydra", "main", "schema")]
    for source in its:
        if not anew and source.schema == "file" and not Path(source.path).is_dir():
            raise UserError(f"{source.path}, from which the run was configured, is gone: say with --config-dir where it is now")
    if its and not anew:
        listed = ",".join(hydra_literal(f"{source.schema}://{source.path}") for source in its)
        found.append(f"hydra.searchpath=[{listed}]")
    return found


def resumed_run(folder: str, arguments: Sequence[str]) -> list[str]:
    """A run's own options, in its own folder; beside them those of CHANGEABLE. Raises UserError for others."""
    saved = Path(folder) / ".hydra" / "overrides.yaml"
    if not saved.is_file():
        raise UserError(f"resume={folder} is no run's folder: it has no .hydra/overrides.yaml")
    own = without_resume(OmegaConf.to_container(OmegaConf.load(saved)))
    flags, asked = split_flags(arguments)
    check_changeable(asked, own, multirun=False)
    again = composed_from(saved.with_name("hydra.yaml"), flags, asked)
    # Hydra's files are not cut: it writes none.
    there = [f"hydra.run.dir={hydra_literal(folder)}", "hydra.output_subdir=null"]
    return [*flags, *again, *each_once([*own, *(quote_free_text(option, False) for option in asked)]), *there]
