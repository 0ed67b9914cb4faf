"""Several devices: two processes on the CPU, which talk by gloo. The first is forked, the second started anew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import ROOT
from trials import newest_step, run_folder

from esd.erasing.edit import read_edit
from esd.models import load

BOTH = ("trainer=ddp", "trainer.accelerator=cpu", "batch=1")
CASE = {
    "pool by θ": ("concept=pizza,cat", "preserve=a car"),
    "pool, adversaries": ("concept=pizza,cat", "robust.share=1"),
    "student": ("concept=pizza,cat", "trajectories=student"),
}


def options(faults, case, *more):
    given = (f"model.path={faults.model}", "sampling_steps=4", "evaluate=false", "model.precision=32-true")
    # sgd: Adam's first steps are the gradients' signs, which rounding turns over where a gradient is all but zero
    return (*CASE[case], *given, "optimizer=sgd", "lr=0.1", "steps=4", "checkpoint_every=2", *more)


def processes_in(folder):
    """The processes that work in this folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        try:
            found += [int(place.parent.name)] if os.readlink(place) == str(folder) else []
        except OSError:
            continue
    return found


def gone_within(folder, seconds):
    """Whether none is left after so many seconds at most."""
    until = time.monotonic() + seconds
    while processes_in(folder) and time.monotonic() < until:
        time.sleep(0.2)
    return not processes_in(folder)


@pytest.fixture(scope="module")
def on_two(faults, server):
    """on_two(case) → (how it ended, its folder) of a run on two devices."""
    made = {}

    def run(case):
        if case not in made:
            cwd = faults.place()
            made[case] = server.run(cwd, *options(faults, case, *BOTH, "logger=none")), run_folder(cwd)
        return made[case]

    return run


def step_events(done):
    return [n for n, label in enumerate(done["events"]) if label == "step"]


@pytest.mark.parametrize("case", CASE)
def test_two_devices_with_half_the_batch_are_one_device(faults, server, on_two, case):
    done, folder = on_two(case)
    assert done["code"] == 0 and done["err"] == "", done["err"]
    cwd = faults.place()
    single = server.run(cwd, *options(faults, case, "trainer=cpu", "batch=2", "logger=none"))
    assert single["code"] == 0, single["err"]
    edit, expected = read_edit(folder).tensors, read_edit(run_folder(cwd)).tensors
    base = dict(load(str(faults.model), "tiny").denoiser.named_parameters())
    moved = max((tensor - base[name]).abs().max().item() for name, tensor in expected.items())
    apart = max((tensor - edit[name]).abs().max().item() for name, tensor in expected.items())
    assert apart < 1e-4 * moved, (apart, moved)  # the same draws, their gradients added up in another order


def test_only_the_first_device_writes(on_two):
    _, folder = on_two("student")
    names = {path.name for path in folder.iterdir()}
    assert names == {"edit.safetensors", "grid.png", "metrics.json", "checkpoints", ".hydra"}
    assert [path.name for path in folder.parents[3].iterdir()] == ["outputs"]


def test_two_devices_go_on_after_a_kill_and_none_stays(faults, server, on_two):
    straight, folder = on_two("pool by θ")
    cwd = faults.place()
    kill = {"event": step_events(straight)[-1]}
    killed = server.run(cwd, *options(faults, "pool by θ", *BOTH, "logger=none"), kill=kill)
    assert killed["code"] == -signal.SIGKILL
    assert gone_within(cwd, 60), "the other rank waits for the one that was killed"
    half = run_folder(cwd)
    assert not (half / "edit.safetensors").exists() and newest_step(half) == 2
    done = server.run(cwd, f"resume={half.relative_to(cwd)}")
    assert done["code"] == 0, done["err"]
    assert (half / "edit.safetensors").read_bytes() == (folder / "edit.safetensors").read_bytes()


def test_a_killed_second_rank_ends_the_first(faults, server, on_two):
    straight, _ = on_two("student")
    cwd = faults.place()
    kill = {"event": step_events(straight)[-1], "others": True}
    done = server.run(cwd, *options(faults, "student", *BOTH, "logger=none"), kill=kill)
    struck = (cwd / "struck").stat().st_mtime
    assert done["code"] != 0 and time.time() - struck < 60 and gone_within(cwd, 10)
    assert not (run_folder(cwd) / "edit.safetensors").exists()


def test_a_signal_to_one_rank_ends_all_with_a_checkpoint(faults, server, on_two):
    straight, _ = on_two("student")
    cwd = faults.place()
    told = {"event": step_events(straight)[0], "number": signal.SIGTERM}
    done = server.run(cwd, *options(faults, "student", *BOTH, "logger=none"), signal=told)
    assert done["code"] == 128 + signal.SIGTERM
    (line,) = done["err"].strip().splitlines()
    assert line.startswith("stopped by SIGTERM; to go on: python -m esd.train resume=")
    assert newest_step(run_folder(cwd)) == 1 and gone_within(cwd, 60)


def test_several_devices_in_a_sweep_are_refused_with_the_reason(faults, server):
    done = server.run(faults.place(), "-m", *options(faults, "student", *BOTH, "logger=none"), "seed=1,2")
    assert done["code"] == 2
    assert "a sweep runs each job on one device" in done["err"]


def test_two_sweeps_at_once_share_a_cache_and_nothing_else(faults, server, tmp_path):
    """As people run them: real processes, W&B's too."""
    given = ["concept=pizza,cat", f"model.path={faults.model}", "steps=2", "sampling_steps=3", "batch=2", "evaluate=false"]
    given += ["trajectories=cache", "trajectories.walks=2", "trajectories.limit=1e-9"]  # each lets go of what the other made
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "esd.train", "-m", *given]
    both = [subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=900)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    sweeps = list(tmp_path.glob("outputs/multirun/*/*"))
    edits = {path: path.read_bytes() for path in tmp_path.glob("outputs/multirun/*/*/*/edit.safetensors")}
    assert len(sweeps) == 2 and len(edits) == 4 and len(set(edits.values())) == 2
    assert len({path.name for path in tmp_path.glob("outputs/multirun/*/*/*/wandb/offline-run-*/run-*.wandb")}) == 4
    assert not list(tmp_path.rglob(".partial-*"))
