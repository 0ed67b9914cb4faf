"""The other processes of a run on several devices: they end with the first."""

from __future__ import annotations

import ctypes
import signal
import sys

from pytorch_lightning import Trainer


def die_with_parent() -> None:
    """On Linux, end this rank where the first is gone: a collective may wait for it for half an hour."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def stop_other_ranks(trainer: Trainer) -> None:
    """End the other ranks, which would wait for this one. Lightning's observer kills this process, too, where one ends
    badly, unless it has none left to watch."""
    others = getattr(trainer.strategy.launcher, "procs", [])
    while others:
        others.pop().kill()
