"""Told to stop: a checkpoint after the present step, one line that says how to go on, 128 + the signal as exit code."""

from __future__ import annotations

import signal

import pytest
from trials import STEPS, newest_step, run_folder


@pytest.mark.parametrize("number", range(6))
def test_a_run_that_is_told_to_stop_goes_on_to_the_same_file(faults, number):
    outcome = faults.signalled(number)
    assert not outcome.lost and not outcome.wrong, outcome


def test_a_sweep_ends_after_the_present_job_and_goes_on_with_it(faults, server):
    cwd = faults.place()
    arguments = ("-m", "concept=pizza,cat,owl", f"model.path={faults.model}", "steps=4", "sampling_steps=3", "batch=2")
    arguments += ("evaluate=false", "logger=none")
    straight = server.run(cwd, *arguments)
    assert straight["code"] == 0, straight["err"]
    edits = {path.parent.name: path.read_bytes() for path in cwd.glob("outputs/multirun/*/*/*/edit.safetensors")}
    steps = [n for n, label in enumerate(straight["events"]) if label == "step"]

    cwd = faults.place()
    stopped = server.run(cwd, *arguments, signal={"event": steps[len(steps) // 2], "number": signal.SIGTERM})
    assert stopped["code"] == 128 + signal.SIGTERM
    (line,) = stopped["err"].strip().splitlines()
    assert line.startswith("stopped by SIGTERM; to go on: python -m esd.train -m resume=")
    (sweep,) = cwd.glob("outputs/multirun/*/*")
    assert sorted(path.name for path in sweep.glob("*-*")) == ["0-pizza", "1-cat"], "the third job did not start"
    assert not (sweep / "1-cat" / "edit.safetensors").exists()
    at = newest_step(sweep / "1-cat")
    assert 0 < at < 4

    done = server.run(cwd, *line.partition("esd.train ")[2].split())
    assert done["code"] == 0, done["err"]
    assert done["steps"] == 4 - at + 4, "the first job was not run again, the second went on"
    assert {path.parent.name: path.read_bytes() for path in sweep.glob("*/edit.safetensors")} == edits


def test_a_checkpoint_comes_by_the_clock(faults, server):
    cwd = faults.place()
    done = server.run(cwd, *faults.arguments("student, adam"), "checkpoint_every=1000", "checkpoint_minutes=1e-6")
    assert done["code"] == 0
    kept = sorted(path.stem for path in run_folder(cwd).glob("checkpoints/*"))
    assert kept == [f"step={STEPS - 1}", f"step={STEPS}"]
