"""What all commands share: where the configuration lies, their arguments on the way to Hydra, and errors in one line.

Imports nothing heavy: a wrong option must be answered before torch is loaded.
"""

from __future__ import annotations

import argparse
import errno
import functools
import gc
import logging
import os
import re
import sys
from collections.abc import Callable
from datetime import datetime

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from esd import UserError
from esd.command.help import help_text
from esd.command.signals import IS_MAIN_PROCESS
from esd.command.words import check_readable, quote_free_text
from esd.files import CONF, PACKAGE, new_folder, remove_unused_folders, slug

# Before anything imports them: both say which optional packages they do without, and torchao registers what torch has.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


def fast_precision(on_gpu: str = "", *, _root_: DictConfig | None = None) -> str:
    """What suits the configured device (esd.models.devices), on a GPU what is given; nothing: bf16-mixed where it computes in
    that without emulation, else 32-true. Asked when a run is built: imports torch."""
    import torch

    from esd.models.devices import precision_for

    asked = [OmegaConf.select(_root_, key) for key in ("trainer.accelerator", "accelerator")] if _root_ is not None else []
    if not torch.cuda.is_available() or "cpu" in asked:
        return precision_for("cpu")
    return on_gpu or ("bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true")


def free_determinism() -> str | bool:
    """As esd.erase has it. Asked when a run is built: imports torch."""
    from esd.erasing.run import free_determinism

    return free_determinism()


def default_layers(models: str, rank: int | None) -> str:
    """The rule of layers=default: the model's, but for LoRA, for which its rate and its sparing were not made."""
    return models if rank is None else "esd-x"


def default_spare(models: dict | None, layers: str | None, rank: int | None) -> float:
    """What spare is unless it is given: what suits these layers of the model."""
    return 0.0 if rank is not None or not layers else (models or {}).get(layers, 0.0)


OmegaConf.register_new_resolver("free_determinism", free_determinism, replace=True)
OmegaConf.register_new_resolver("fast_precision", fast_precision, replace=True)
OmegaConf.register_new_resolver("slug", slug, replace=True)
OmegaConf.register_new_resolver("new_folder", new_folder, replace=True)
OmegaConf.register_new_resolver("default_layers", default_layers, replace=True)
OmegaConf.register_new_resolver("default_spare", default_spare, replace=True)
OmegaConf.register_new_resolver("where_null", lambda value, its, other: its if value is None else other, replace=True)
OmegaConf.register_new_resolver("package_folder", lambda name: str(PACKAGE / name), replace=True)
OmegaConf.register_new_resolver("clock", lambda pattern: _START.strftime(pattern), replace=True)
_START = datetime.now()
DEBUG = (
    os.environ.get("HYDRA_FULL_ERROR") == "1" and IS_MAIN_PROCESS
)  # tracebacks are wanted (other ranks inherit it from the first)


# What Hydra and OmegaConf add to their messages: where they looked, and what their own programmer's next step is.
HYDRA_NOISE = r"full_key|object_type|reference_type|To append to|Config search path|provider=|See https://hydra"


def error_line(error: BaseException) -> str:
    """What is wrong, in one line: of a UserError its own words, of Hydra's and OmegaConf's messages what matters to people."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not re.match(HYDRA_NOISE, line.strip())]
    text = " ".join(dict.fromkeys(lines)) or type(error).__name__
    if missing := re.search(r"Missing mandatory value: ([\w.]+)", text):
        whole = getattr(error, "full_key", None) or ""
        option = whole if whole.endswith(f".{missing[1]}") else missing[1]
        return f"{option} is missing: give {option}=…"
    if (cause := error.__cause__) and not isinstance(error, UserError):
        text += ": " + " ".join(line.strip() for line in str(cause).splitlines()[:1])
    return re.sub(r"\s+", " ", text).removeprefix("Error merging override ").replace("'.: ", "': ")


def is_user_error(error: Exception) -> bool:
    """Whether it is about what was asked for, and one line says enough; of others the traceback is wanted."""
    if isinstance(error, UserError) or type(error).__module__.startswith(("hydra", "omegaconf")):
        return True
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # Path's, of ~nobody/…
        return True
    # A file that cannot be read or written; of a full disk it is not always said which.
    return isinstance(error, OSError) and (bool(error.filename) or error.errno in (errno.ENOSPC, errno.EDQUOT))


def fail(message: str, code: int = 2) -> None:
    remove_unused_folders()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


class ArgumentParser(argparse.ArgumentParser):
    """Of the commands that have no configuration: wrong arguments end in one line, too."""

    def error(self, message: str) -> None:
        fail(f"{message} (--help lists what there is)")


def flags_first(arguments: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The flags with their values before the options: argparse, and so Hydra, takes no flag between two options."""
    valued = {flag for action in parser._actions if action.nargs is None for flag in action.option_strings}
    flags, options, after = [], [], False
    for argument in arguments:
        (flags if after or argument.startswith("-") else options).append(argument)
        after = argument in valued
    return [*flags, *options]


def command(
    config: str, prepare: Callable[[list[str]], list[str]] = lambda arguments: arguments
) -> Callable[[Callable[[DictConfig], object]], Callable[[], object]]:
    """Make `main(cfg)` a command whose configuration is conf/<config>.yaml. Mistakes end in one line and code 2.

    prepare: what is to be done to the arguments before Hydra sees them.
    """

    def decorate(main: Callable[[DictConfig], object]) -> Callable[[], object]:
        @functools.wraps(main)
        def job(cfg: DictConfig) -> object:
            try:
                return main(cfg)
            except Exception as error:
                if DEBUG or not is_user_error(error) or HydraConfig.get().mode == RunMode.MULTIRUN:
                    raise  # a sweep goes on, and lists it
                fail(error_line(error))  # before Hydra says it in its own way

        run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)(job)

        @functools.wraps(main)
        def start() -> object:
            if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
                print(
                    help_text(
                        CONF / f"{config}.yaml",
                        (sys.modules[main.__module__].__doc__ or "").partition(": ")[2].split(" See conf/")[0],
                    )
                )
                return None
            gc.set_threshold(100_000, 20, 50)  # importing makes objects that stay: looking them through is a tenth of a start
            os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us and not Hydra's printer
            try:
                multirun = any(argument in ("-m", "--multirun") for argument in sys.argv[1:])
                given = [quote_free_text(argument, multirun) for argument in prepare(sys.argv[1:])]
                flags = get_args_parser()
                flags.error = fail
                sys.argv[1:] = flags_first(given, flags)
                parsed = flags.parse_args()
                if len(asked := [f"--{name}" for name in ("run", "multirun", "cfg", "info") if getattr(parsed, name)]) > 1:
                    raise UserError(f"{' and '.join(asked)} do not go together: give one of them")
                check_readable(parsed.overrides)
                return run()
            except Exception as error:
                if DEBUG or not is_user_error(error):
                    raise
                fail(error_line(error))
            except KeyboardInterrupt:
                fail("interrupted", 130)

        return start

    return decorate
