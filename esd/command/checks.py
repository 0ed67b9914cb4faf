"""Checks of options that need no model: each raises UserError, in one line that says what would be right."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig

from esd import UserError
from esd.command.entry import error_line


def texts(value: object, option: str) -> list[str]:
    """One text, or a list of them, as a list. Raises UserError where one is empty or no text, or there is none."""
    parts = list(value) if isinstance(value, list | tuple | ListConfig) else [value]
    if any(part is None or isinstance(part, list | dict | ListConfig | DictConfig) for part in parts):
        raise UserError(f"{option}={value} must be a text, or a [list] of texts")
    cleaned = [str(part).strip() for part in parts]
    if not cleaned or not all(cleaned):
        raise UserError(f"{option} is empty: give a text, or a [list] of texts")
    if any("\udc80" <= letter <= "\udcff" for part in cleaned for letter in part):  # so Python keeps what it cannot decode
        raise UserError(f"{option} is no text in UTF-8: {ascii(cleaned)}")
    return cleaned


def one_text(value: object, option: str) -> str:
    """Raises UserError where there is none, or a list of several."""
    found = texts(value, option)
    if len(found) > 1:
        raise UserError(f"{option}={value} must be one text, and is {len(found)}")
    return found[0]


def require_one_of(value: object, option: str, known: Iterable[str]) -> None:
    """Raises UserError for what is unknown."""
    if value not in known:
        raise UserError(f"{option}={value} is unknown: {', '.join(known)}")


def require_at_least(cfg: Mapping, prefix: str = "", **lows: float) -> None:
    """Each named option is a number, and no less than this: a whole one where this is. Raises UserError.

    prefix: of the options' names in the message. Whole numbers stay below 2⁶², so that a seed of noise plus a count is one.
    """
    for name, low in lows.items():
        value = cfg[name]
        kinds, what, high = (int, "whole", 2**62) if isinstance(low, int) else (int | float, "finite", math.inf)
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value < high:
            raise UserError(f"{prefix}{name}={value} must be a {what} number, {low:g} or more")


def refuse_quantized(model: Mapping) -> None:
    """Raises UserError where the model's configuration asks for 8 bits: an edit is judged, drawn and written in what it has."""
    if model.get("quantize") is not None:
        raise UserError(f"model.quantize={model['quantize']} is for training by LoRA: leave it out")


@contextlib.contextmanager
def option_errors(options: str) -> Iterator[None]:
    """Around what only builds an object from options: whatever it raises is about them, and becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
        raise UserError(f"{options}: {error_line(cause)}") from error
