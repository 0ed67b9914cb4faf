"""What all commands share: where the configuration lies, free text on the command line, and errors in one line.

Imports nothing heavy: a wrong option must be answered before torch is loaded.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

# In the checkout conf/ stands beside the package, in the wheel it lies inside.
CONF = next(p for p in (Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf") if p.is_dir())
TEXTS = ("concept", "erase_from", "prompt")  # options whose values are people's words, not Hydra's grammar
LISTS = ("concept", "erase_from")  # of these, the ones that a comma divides


class Mistake(ValueError):
    """Something the user asked for cannot be had: one line that says what is wrong and what would be right."""


def slug(text: object, length: int = 40) -> str:
    """A name that is safe in any path: letters, digits and dashes; never empty, never a path."""
    parts = text if isinstance(text, list | tuple | ListConfig) else [text]
    cleaned = "-".join(re.sub(r"[^\w]+", "-", str(part), flags=re.ASCII).strip("-_") for part in parts)
    return cleaned[:length].strip("-_").lower() or "run"


@functools.cache  # Hydra resolves it more than once; two runs started in the same second get two folders
def fresh(parent: str, name: str) -> str:
    """A folder parent/name that did not exist, made now; -2, -3, … is added until one is new."""
    Path(parent).mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        folder = Path(parent) / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return str(folder)
    raise Mistake(f"{parent} already holds a thousand folders named {name}: clear it out")


def fast_precision() -> str:
    """bf16-mixed where a GPU or the processor computes in it, else 32-true. Asked when a run is built: imports torch."""
    import torch

    native = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if native else "32-true"


def free_determinism() -> str | bool:
    """warn (deterministic algorithms wherever there are any) without a GPU, where that costs nothing; false with one."""
    import torch

    return False if torch.cuda.is_available() else "warn"


OmegaConf.register_new_resolver("free_determinism", free_determinism, replace=True)
OmegaConf.register_new_resolver("fast_precision", fast_precision, replace=True)
OmegaConf.register_new_resolver("slug", slug, replace=True)
OmegaConf.register_new_resolver("fresh", fresh, replace=True)
OmegaConf.register_new_resolver("clock", lambda pattern: _START.strftime(pattern), replace=True)
_START = datetime.now()


def quoted(argument: str, multirun: bool) -> str:
    """Free text as Hydra takes it: concept=Monet's garden → concept='Monet\\'s garden'; a comma divides concepts, which
    are a list in one run and a sweep in a multirun. Values that already are quoted or in brackets stay."""
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in TEXTS or value[:1] in ("'", '"', "[", "$") or not value:
        return argument

    def quote(text: str) -> str:
        return "'" + text.strip().replace("\\", "\\\\").replace("'", "\\'") + "'"

    parts = value.split(",") if key.lstrip("+") in LISTS else [value]
    listed = ",".join(map(quote, parts))
    return f"{key}={listed}" if multirun or len(parts) == 1 else f"{key}=[{listed}]"


def one_line(error: BaseException) -> str:
    """Hydra's and OmegaConf's messages, which take several lines, in one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("full_key", "object_type", "reference_type", "To append to"))]
    text = " ".join(dict.fromkeys(lines)) or type(error).__name__
    if cause := error.__cause__:
        text += ": " + " ".join(line.strip() for line in str(cause).splitlines()[:1])
    return re.sub(r"\s+", " ", text).removeprefix("Error merging override ")


def fail(message: str, code: int = 2) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


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
            except Mistake as error:
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    raise  # the sweep goes on, and lists it
                fail(one_line(error))  # before Hydra says it in its own way

        run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)(job)

        @functools.wraps(main)
        def start() -> object:
            debug = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach us and not Hydra's printer
            try:
                multirun = any(argument in ("-m", "--multirun") for argument in sys.argv[1:])
                sys.argv[1:] = prepare([quoted(argument, multirun) for argument in sys.argv[1:]])
                return run()
            except Exception as error:
                known = isinstance(error, Mistake) or type(error).__module__.startswith(("hydra", "omegaconf"))
                known = known or getattr(error, "errno", None) == errno.ENOSPC  # Hydra's own files
                if debug or not known:
                    raise
                fail(one_line(error))
            except KeyboardInterrupt:
                fail("interrupted", 130)

        return start

    return decorate
