"""What a sweep writes down of its failures, and which runs it takes for finished."""

from __future__ import annotations

import json

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from esd import UserError
from esd.train import sweeps


def ended(folder, error=None):
    config = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}}})
    job = JobReturn()
    job.status, job.return_value = (JobStatus.FAILED, error) if error else (JobStatus.COMPLETED, 0.5)
    sweeps.Outcomes().on_job_end(config, job)


def test_a_failed_run_says_why_and_a_repeated_one_forgets_it(tmp_path, capsys):
    for name in ("0-cat", "1-dog", "2-owl"):
        (tmp_path / name).mkdir()
    ended(tmp_path / "0-cat")
    (tmp_path / "0-cat" / "metrics.json").write_text("{}")
    ended(tmp_path / "1-dog", UserError("no such dog"))
    ended(tmp_path / "2-owl", FloatingPointError("the loss is not finite [step 3]"))
    assert (tmp_path / "1-dog" / "error.txt").read_text().splitlines()[0] == "no such dog"
    sweeps.print_summary(tmp_path)
    said = capsys.readouterr().out
    assert "1 runs ended, 2 failed" in said and "1-dog: no such dog" in said
    assert "2-owl: FloatingPointError: the loss is not finite [step 3]" in said
    ended(tmp_path / "1-dog")
    assert not (tmp_path / "1-dog" / "error.txt").exists()


def test_the_same_run_is_the_one_whose_edit_would_be_the_same(tmp_path):
    from esd.train.record import changed_entry, check_same_run

    before = {"eta": 1.0, "preserve": ["a"], "steps": 4, "command": "x", "versions": {"torch": "1"}, "precision": "bf16-mixed"}
    assert changed_entry(before, {**before, "steps": 6, "command": "y", "versions": {}}) is None
    assert changed_entry(before, {**before, "new": 1}) is None  # of a later version
    assert changed_entry(before, {**before, "preserve": ("a",)}) is None  # as JSON writes it
    with pytest.raises(UserError, match="1-cat: eta was 1.0 when this run was begun, and is 2.0 now"):
        check_same_run(tmp_path / "1-cat", before, {**before, "eta": 2.0})
    with pytest.raises(UserError, match="precision .*: give trainer.precision=bf16-mixed"):
        check_same_run(tmp_path, before, {**before, "precision": "32-true"})
    assert changed_entry(before, {**before, "precision": "32-true"}, "precision") is None


def test_a_sweep_resumed_is_the_newest_sweep_with_the_same_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def made(name, *task):
        folder = sweeps.MULTIRUN / "2026-01-01" / name
        folder.mkdir(parents=True)
        OmegaConf.save({"hydra": {"overrides": {"task": list(task)}}}, folder / "multirun.yaml")
        return folder

    first = ["-m", "concept='cat','dog'", "eta=1,2", "resume=true"]
    (folder,) = [argument for argument in sweeps.with_sweep_folder(first) if argument.startswith("hydra.sweep.dir=")]
    assert (tmp_path / folder.split("'")[1]).is_dir()  # none yet: a new folder, there before any launcher starts
    assert sweeps.with_sweep_folder(["-m", "hydra.sweep.dir=here"]) == ["-m", "hydra.sweep.dir=here"]
    made("10-00-00", "concept='cat','dog'", "eta=1,2")
    newest = made("11-00-00", "eta=1,2", "concept='cat','dog'", "resume=true")
    made("12-00-00", "concept='cat','dog'", "eta=3")
    expected = ["-m", "eta=1,2", "concept='cat','dog'", "resume=true", f"hydra.sweep.dir='{newest}'"]  # in the sweep's order
    assert sweeps.with_sweep_folder(first) == expected
    assert sweeps.with_sweep_folder([*first, "hydra/launcher=cores"])[-1] == expected[-1]  # where it runs is not what it is
    by_name = sweeps.with_sweep_folder(["-m", f"resume={newest}"])
    assert by_name[0] == "-m" and sorted(by_name[1:3]) == ["concept='cat','dog'", "eta=1,2"] and by_name[-1] == expected[-1]
    (newest / "multirun.yaml").write_text("hydra:\n  overr")
    assert sweeps.with_sweep_folder(first)[-1] != expected[-1]
    with pytest.raises(UserError, match="is damaged: give the sweep's options again"):
        sweeps.with_sweep_folder(["-m", f"resume={newest}"])
    with pytest.raises(UserError, match="no sweep's folder"):
        sweeps.with_sweep_folder(["-m", "resume=nowhere"])


def test_which_run_this_is_of_how_many(tmp_path, monkeypatch):
    def place(number, mode=RunMode.MULTIRUN, **sweep):
        OmegaConf.save(OmegaConf.create({"hydra": {"overrides": {"task": []}, "sweeper": {"params": None}} | sweep}), file)
        here = OmegaConf.create({"mode": mode, "sweep": {"dir": str(tmp_path)}, "job": {"num": number}})
        monkeypatch.setattr(sweeps.HydraConfig, "get", lambda: here)
        return sweeps.place_in_sweep()

    file = tmp_path / "multirun.yaml"
    task = {"overrides": {"task": ["concept='pizza','a, b'", "eta=0.5,1,2", "layers=esd-x", "seed=range(4)"]}}
    assert place(0, **task) == (1, 24) and place(23, **task) == (24, 24)
    assert place(2, sweeper={"params": {"eta": "1,2", "seed": "1"}}, overrides={"task": ["seed=1,2,3"]}) == (3, 6)
    assert place(4, sweeper={"n_trials": 9}) == (5, 9)  # a search
    assert place(0, mode=RunMode.RUN) is None
    file.unlink()
    assert sweeps.place_in_sweep() is None


def test_a_sweep_ends_with_its_table(tmp_path, capsys):
    counts = {"hits": 1, "of": 4, "rate": 0.25, "interval": [0, 1]}
    kept = {**counts, "hits": 4, "rate": 1.0}
    judged = {"training_seconds": 3.2, "edit": {"erased": counts, "erased_styled": counts, "kept": kept}}
    for name, metrics in (("10-cat", {"training_seconds": 1.0}), ("2-pizza", judged)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    sweeps.print_summary(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["2-pizza", "25.0", "%", "(2", "of", "8)", "100.0", "%", "(4", "of", "4)", "3"]
    assert lines[2].split() == ["10-cat", "not", "judged", "1"] and lines[3].startswith("2 runs ended, 0 failed")
