"""Keep what the libraries say of themselves out of a command's output; errors and real warnings stay."""

from __future__ import annotations

import logging
import os
import warnings


def silence_libraries() -> None:
    """Call once, before torch, diffusers, transformers or Lightning are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao registers what torch knows by now
    for message in (
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
    ):
        warnings.filterwarnings("ignore", message)
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
