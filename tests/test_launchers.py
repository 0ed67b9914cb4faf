"""A sweep on each launcher that this machine can run: what it leaves does not depend on who ran it."""

from __future__ import annotations

import pytest

from esd.erasing.edit import read_edit

FAST = ("steps=2", "sampling_steps=4", "evaluate=false", "logger=none")


@pytest.mark.parametrize(
    ("launcher", "package"),
    [
        ("cores", "hydra_plugins.hydra_joblib_launcher"),
        ("submitit_local", "hydra_plugins.hydra_submitit_launcher"),
        ("cluster", "hydra_plugins.hydra_ray_launcher"),  # a Ray of this machine
    ],
)
def test_a_sweep_of_two_runs(esd, launcher, package):
    pytest.importorskip(package, reason="its extra is not installed")
    done = esd("train", "-m", "concept=pizza,cat", *FAST, f"hydra/launcher={launcher}", afresh=True)  # starts it anew itself
    assert done.returncode == 0, done.stderr[-2000:]
    made = sorted(path.parent for path in done.folder.glob("outputs/multirun/*/*/*/edit.safetensors"))
    assert [path.name for path in made] == ["0-pizza", "1-cat"] and len({path.parent for path in made}) == 1
    assert [read_edit(path).record["concept"] for path in made] == [["pizza"], ["cat"]]
    assert "2 runs ended, 0 failed" in done.stdout


def test_optuna_searches(esd):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="its extra is not installed")
    options = ("hydra/sweeper=search", "hydra.sweeper.n_trials=2")
    done = esd("train", "-m", *options, "concept=pizza", "eta=interval(0.5,3)", "steps=1", "sampling_steps=4", "logger=none")
    assert done.returncode == 0, done.stderr[-2000:]
    made = [read_edit(path.parent).record for path in done.folder.glob("outputs/multirun/*/*/*/edit.safetensors")]
    assert len({record["eta"] for record in made}) == 2 and all(0.5 <= record["eta"] <= 3 for record in made)
    (results,) = done.folder.glob("outputs/multirun/*/*/optimization_results.yaml")
    assert "best_value" in results.read_text()
