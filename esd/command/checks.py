"""Checks of options that need no model: each raises UserError, in one line that says what would be right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from hydra.errors import HydraException

from esd import UserError
from esd.command.entry import error_line
from esd.erasing.checks import check_precision, require_at_least, require_one_of, texts

__all__ = [
    "check_precision", "one_text", "option_errors", "refuse_quantized", "require_at_least", "require_one_of", "texts",
]  # fmt: skip


def one_text(value: object, option: str) -> str:
    """Raises UserError where there is none, or a list of several."""
    found = texts(value, option)
    if len(found) > 1:
        raise UserError(f"{option}={value} must be one text, and is {len(found)}")
    return found[0]


def refuse_quantized(model: Mapping) -> None:
    """Raises UserError where the model's configuration asks for 8 bits: an edit is judged, drawn and written in what it has."""
    if model.get("quantize") is not None:
        raise UserError(f"model.quantize={model['quantize']} is for training by LoRA: leave it out")


def require_bool(cfg: Mapping, *names: str) -> None:
    """Raises UserError where one of these options is neither true nor false."""
    for name in names:
        if not isinstance(cfg[name], bool):
            raise UserError(f"{name}={cfg[name]} must be true or false")


@contextlib.contextmanager
def option_errors(options: str) -> Iterator[None]:
    """Around what only builds an object from options: whatever it raises is about them, and becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
        if isinstance(cause, UserError):  # an object's own check of its options, which Hydra wrapped
            raise cause from None
        raise UserError(f"{options}: {error_line(cause)}") from error
