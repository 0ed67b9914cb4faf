"""Keep what the libraries say of themselves out of a command's output; errors and real warnings stay."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

EXPECTED = (  # warnings of Lightning's, of what is so on purpose
    r".*torch_dtype. is deprecated.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*module\(s\) in eval mode at the start of training.*",  # decided in layers.student_of
    r".*does not have many workers.*",
    r".*Trying to infer the `batch_size`.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*resuming from a checkpoint that ended before the epoch ended.*",  # concepts.Draws starts where it ended
    r".*all_gather is deprecated.*",  # Lightning's own use of it
    r".*Experiment logs directory .* exists and is not empty.*",
    r".*is smaller than the logging interval.*",
    r".*Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`.*",  # Lightning's order under a skipped step
)
LIGHTNING = (
    "pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.distributed",
)  # fmt: skip


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Within somebody's program: without Lightning's notes on devices and expected warnings, and afterwards as before."""
    loggers = [logging.getLogger(name) for name in LIGHTNING]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            for message in EXPECTED:
                warnings.filterwarnings("ignore", message)
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def silence_libraries() -> None:
    """Call before torch, diffusers, transformers or Lightning are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao registers what torch knows by now
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message)
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
