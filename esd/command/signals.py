"""A run that is told to stop: Ctrl-C, SIGTERM, and SIGUSR1, which Slurm sends ahead of a time limit (--signal=USR1@120).

While it trains, the run ends after its present step, with a checkpoint; before and after, at once, for files appear whole
or not at all. The exit code is 128 + the signal's number: 130 SIGINT, 143 SIGTERM, 138 SIGUSR1. A second Ctrl-C does not wait.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

IS_MAIN_PROCESS = os.environ.get("LOCAL_RANK", "0") == "0"  # whether this is the process that speaks and writes
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(SystemExit):
    """Told to stop by this signal. No Exception, so that nothing on the way out takes it for a failure of its own."""

    def __init__(self, signum: int):
        # Lightning kills the first rank where another ends with a code: only the first says why the run ended.
        super().__init__(128 + signum if IS_MAIN_PROCESS else 0)
        self.name = signal.Signals(signum).name


class Signals:
    """`with Signals() as signals`: a signal raises Interrupted at once; while `patient`, it waits in `received`."""

    def __init__(self):
        self.received, self.patient, self.leaving = 0, False, False

    def __enter__(self) -> Signals:
        self.before = {signum: signal.getsignal(signum) for signum in STOPS}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.patient = False
        if threading.current_thread() is threading.main_thread():
            for signum, handler in self.before.items():
                signal.signal(signum, handler)

    def listen(self) -> None:
        """Take the signals, also from Lightning, which puts handlers of its own in place when it starts to train."""
        if threading.current_thread() is threading.main_thread():  # a launcher may run jobs in threads, which get no signals
            for signum, handler in self.before.items():
                if handler is not signal.SIG_IGN:  # nohup, or a shell's background job: whoever started us decided
                    signal.signal(signum, self.handle)

    def handle(self, signum: int, _: FrameType | None) -> None:
        again = signum == signal.SIGINT == self.received
        self.received = self.received or signum
        if not self.leaving and (again or not self.patient):
            self.stop(self.received)

    def stop(self, signum: int) -> None:
        """Leave, once: a signal that comes on the way out does not cut short what is being put away."""
        self.leaving = True
        raise Interrupted(signum)
