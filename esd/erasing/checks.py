"""Checks of what a run is asked for that need no model: each raises UserError, in one line that says what would be right."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence

from esd import UserError


def texts(value: object, option: str) -> list[str]:
    """One text, or a list of them, as a list. Raises UserError where one is empty or no text, or there is none."""
    parts = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not all(isinstance(part, str | int | float) for part in parts):
        raise UserError(f"{option}={value} must be a text, or a [list] of texts")
    cleaned = [str(part).strip() for part in parts]
    if not cleaned or not all(cleaned):
        raise UserError(f"{option} is empty: give a text, or a [list] of texts")
    if any("\udc80" <= letter <= "\udcff" for part in cleaned for letter in part):  # so Python keeps what it cannot decode
        raise UserError(f"{option} is no text in UTF-8: {ascii(cleaned)}")
    return cleaned


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


def check_precision(precision: object, option: str) -> None:
    """Raises UserError for one of Lightning's that turns all weights to another type: nothing here is trained or drawn so. What
    Lightning does not know, it says itself."""
    if str(precision) in ("16-true", "bf16-true", "64-true", "64"):
        raise UserError(f"{option}={precision} turns all weights to that type: give 32-true, bf16-mixed or 16-mixed")


def check_options(options: Mapping) -> None:
    """What an erasure is asked for (conf/train.yaml has the same names): that each option is of its kind and range, and that
    they go together. Raises UserError."""
    concepts = texts(options["concept"], "concept")
    if options["erase_from"]:
        sources = texts(options["erase_from"], "erase_from")
        if len(sources) not in (1, len(concepts)):
            raise UserError(
                f"concept has {len(concepts)} entries and erase_from {len(sources)}: they pair up, "
                f"so give {len(concepts)}, or one that serves all"
            )
    if len(set(concepts)) < len(concepts) and not options["erase_from"]:
        raise UserError(f"concept names '{max(concepts, key=concepts.count)}' twice: once is enough")
    for template in options["templates"] or [""]:
        if template.count("{}") != 1:
            raise UserError(f"templates: '{template}' needs one {{}} where the concept goes, for example 'a painting by {{}}'")
    require_at_least(options, batch=1, sampling_steps=1, preserve_batch=0, seed=0)
    require_at_least(options, eta=0.0, guidance=0.0, lr=0.0, preserve_weight=0.0, spare=0.0, closed_form=0.0)
    require_at_least(options, steps=0 if options["closed_form"] else 1)
    if options["lr"] == 0:
        raise UserError("lr=0 trains nothing: for example lr=1e-5")


def check_lora(rank: int | None, alpha: float | None, quantize: str | None, **of_whole_weights: float) -> None:
    """lora.rank, lora.alpha, model.quantize, spare and closed_form: each in its range, and that they go together. Raises
    UserError."""
    for name, value in of_whole_weights.items():
        if rank is not None and value:
            raise UserError(f"{name}={value:g} is of whole weights, which lora.rank={rank} leaves as they are: {name}=0")
    if rank is not None:
        require_at_least({"rank": rank}, "lora.", rank=1)
    if alpha is not None and (rank is None or not 0 < alpha < math.inf):
        raise UserError(f"lora.alpha={alpha:g} must be above 0, and beside it a rank: for example lora.rank=16")
    if quantize is not None:
        require_one_of(quantize, "model.quantize", ("int8",))
        if rank is None:
            raise UserError("model.quantize=int8 is for weights that stay as they are: give lora.rank=16 beside it")
        if importlib.util.find_spec("torchao") is None:
            raise UserError("model.quantize=int8 needs torchao: pip install 'erased-diffusion[int8]'")
