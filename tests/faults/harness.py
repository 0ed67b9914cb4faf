"""Real runs in real processes that cost little: a server that has imported everything forks one process for each.

The server (python harness.py) reads one JSON request a line and answers each with one line:

    {"cwd", "arguments", "command": "train", "env": {…},
     "kill": {"event": n, "cut": share, "others": bool} | {"after": seconds},
     "signal": {"event": n, "number": signum}, "fail": {"event": n}, "memory": GB, "watch": true, "judging_steps": n}
    → {"code", "seconds", "events": [label, …], "steps", "out", "err"}

Events are the moments at which a run is struck, counted in the run's own process: each forward of a denoiser, and each
operation on a file of its folders, labelled by what is going on. `kill` strikes with SIGKILL just before event n; where the
event is a file being synced, `cut` leaves that share of it, as a kill in the middle of writing it does; `others` strikes
the processes that the run has started instead of itself. `after` strikes by the clock, from outside. `fail` is a full disk
at event n and ever after; `memory` is all the address space that the run may have beyond what the server has. Without
`watch` no events are counted, and what a command does not import by itself is not imported. With `judging_steps` the emoji
protocol's pictures take so few steps, and nine objects stand for all the others: for what is counted, not what is seen.
"""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


class Server:
    """One forking server; `run` is one run of a command in a process of its own."""

    def __init__(self):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def run(self, cwd: Path, *arguments: str, command: str = "train", **request) -> dict:
        cwd.mkdir(parents=True, exist_ok=True)
        request |= {"cwd": str(cwd), "arguments": arguments, "command": command}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


# The server's side

NO_FILE = ("drawing", "step", "roll-out")  # events that are a forward


def label(path: str) -> str:
    """What a file operation belongs to, by the path."""
    for part, name in (
        ("checkpoints", "checkpoint"), ("outputs/cache", "cache file"), ("edit", "edit"), ("grid", "grid"),
        ("metrics", "metrics"), (".hydra", "options"),
    ):  # fmt: skip
        if part in path:
            return name
    return "folder"


class Watch:
    """Counts a run's events, and strikes at one of them."""

    def __init__(self, request: dict):
        self.request, self.events, self.steps, self.within = request, [], 0, "drawing"
        self.kill, self.signal, self.fail = (request.get(name) or {} for name in ("kill", "signal", "fail"))

    def happen(self, what: str, fd: int | None = None, writes: bool = True) -> None:
        self.events.append(what)
        number = len(self.events) - 1
        if self.kill.get("event") == number:
            if fd is not None and "cut" in self.kill:
                os.ftruncate(fd, int(self.kill["cut"] * os.fstat(fd).st_size))
            victims = [os.getpid()]
            if self.kill.get("others"):
                Path(self.request["cwd"], "struck").touch()
                victims = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for pid in victims:
                os.kill(int(pid), signal.SIGKILL)
        if self.signal.get("event") == number:
            os.kill(os.getpid(), self.signal["number"])
        if writes and what not in NO_FILE and number >= self.fail.get("event", math.inf):
            raise OSError(errno.ENOSPC, "No space left on device")

    def audit(self, name: str, arguments: tuple) -> None:
        if name in ("open", "os.rename", "os.remove", "os.mkdir"):
            path, written = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else "", True
            path = path.decode() if isinstance(path, bytes) else path
            if name == "open":
                flags = arguments[2] or 0
                written = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if written and "outputs" in path and os.path.abspath(path).startswith(self.request["cwd"]):
                self.happen(label(path), writes=name != "os.remove")  # a full disk can be cleared

    def install(self) -> None:
        """Into this process, for good."""
        import esd.models.stable_diffusion as family
        from esd.erasing import walk_store
        from esd.erasing.erasure import Erasure

        predict, step = family.StableDiffusion.predict, Erasure.training_step
        roll_out, fsync = walk_store.roll_out, os.fsync

        def watched_predict(*args, **kwargs):
            self.happen(self.within)
            return predict(*args, **kwargs)

        def watched_step(*args, **kwargs):
            self.steps += 1
            return self.inside("step", step, *args, **kwargs)

        def watched_fsync(fd):
            path = os.readlink(f"/proc/self/fd/{fd}")
            if path.startswith(self.request["cwd"]):
                self.happen(label(path), fd)
            fsync(fd)

        family.StableDiffusion.predict, Erasure.training_step = watched_predict, watched_step
        walk_store.roll_out = lambda *args, **kwargs: self.inside("roll-out", roll_out, *args, **kwargs)
        os.fsync = watched_fsync
        sys.addaudithook(self.audit)

    def inside(self, what: str, function, *args, **kwargs):
        before, self.within = self.within, what
        try:
            return function(*args, **kwargs)
        finally:
            self.within = before


def child(request: dict, report: Path) -> int:
    """The run itself, in the forked process: as `python -m esd.<command>` in a folder of its own."""
    import runpy

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    os.chdir(request["cwd"])
    sys.path.insert(0, request["cwd"])  # as -m has it
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, name in ((1, "out"), (2, "err")):
        handle = os.open(report.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
    for name, value in (request.get("env") or {}).items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    watch = Watch(request)
    if request.get("watch", True):
        watch.install()
    if request.get("memory"):
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + int(request["memory"] * 2**30),) * 2)
    if steps := request.get("judging_steps"):
        from esd.protocols import emoji

        far_off, emoji.STEPS = emoji.far_off, steps
        emoji.far_off = lambda gone: far_off(gone)[:9]
    sys.argv = [f"esd.{request['command']}", *request["arguments"]]
    code = 0
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    import atexit

    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    report.write_text(json.dumps({"events": watch.events, "steps": watch.steps}))
    return code


def serve() -> None:
    import shutil
    import tempfile

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(ROOT))
    from esd.models.quiet import silence_libraries

    silence_libraries()
    import hydra  # noqa: F401
    import pytorch_lightning  # noqa: F401
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    for name in [name for name in sys.modules if name.partition(".")[0] == "esd"]:
        del sys.modules[name]  # only the libraries are shared: each run imports the package anew

    scratch = Path(tempfile.mkdtemp())
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line), scratch / "report.json")) + "\n")
        answers.flush()
    shutil.rmtree(scratch)


def answer(request: dict, report: Path) -> dict:
    """Fork the run, strike by the clock if asked, and say how it ended."""
    report.unlink(missing_ok=True)
    started, status = time.monotonic(), None
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = child(request, report)
        finally:
            os._exit(code)
    after = (request.get("kill") or {}).get("after")
    while after is not None and status is None and time.monotonic() - started < after:
        done, found = os.waitpid(pid, os.WNOHANG)
        status = found if done else None
        time.sleep(0.001)
    if status is None:
        if after is not None:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    said = {name: report.with_suffix(f".{name}").read_text(errors="replace") for name in ("out", "err")}
    known = json.loads(report.read_text()) if report.is_file() else {"events": [], "steps": None}
    return {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started, **said, **known}


if __name__ == "__main__":
    serve()
