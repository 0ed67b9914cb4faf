"""A resume makes nothing worse: verdict, curve, seconds and W&B run stay or grow, and the edit is the straight run's, byte for
byte."""

from __future__ import annotations

import csv
import json
import signal

import pytest
from offline import records
from trials import STEPS, run_folder

from esd.metrics.counts import rate_figure

LOGGED = "trainer.log_every_n_steps=2"


def arguments(faults, *more):
    return (*faults.arguments("student, adam"), LOGGED, *more)


def rows(folder):
    """Of metrics.csv, without what a row has nothing for."""
    return [{k: v for k, v in row.items() if v} for row in csv.DictReader((folder / "metrics.csv").open())]


def steps_of(done):
    return [n for n, label in enumerate(done["events"]) if label == "step"]


def wandb_runs(folder):
    """(id, how it ended, whether it was preempted) of each process's part of the W&B run, in order."""
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        whole = list(records(file))
        (run_id,) = {record.run.run_id for record in whole if record.HasField("run")}
        ended = [record.exit.exit_code for record in whole if record.HasField("exit")]
        found.append((run_id, ended, any(record.HasField("preempting") for record in whole)))
    return found


@pytest.fixture(scope="module")
def straight(faults, server):
    """A run that nothing happened to, with its curve."""
    cwd = faults.place()
    done = server.run(cwd, *arguments(faults, "logger=wandb"))
    assert done["code"] == 0, done["err"]
    return run_folder(cwd), done


def test_an_interrupted_run_keeps_its_curve_and_its_wandb_run(faults, server, straight):
    cwd = faults.place()
    moments = steps_of(straight[1])
    last = moments[3 * len(moments) // 4]
    stopped = server.run(cwd, *arguments(faults, "logger=wandb"), signal={"event": last, "number": signal.SIGINT})
    assert stopped["code"] == 130, stopped["err"]
    folder = run_folder(cwd)
    assert rows(folder) and all(float(row["train/loss"]) for row in rows(folder))
    known = rows(folder)
    done = server.run(cwd, f"resume={folder}", "logger=wandb")
    assert done["code"] == 0, done["err"]
    assert rows(folder)[: len(known)] == known
    curve = [(row["step"], row["train/loss"], row["train/gradient_norm"]) for row in rows(straight[0]) if "train/loss" in row]
    assert [(r["step"], r["train/loss"], r["train/gradient_norm"]) for r in rows(folder) if "train/loss" in r] == curve
    first, second = wandb_runs(folder)
    assert first == (first[0], [130], True) and second == (first[0], [0], False)
    assert (folder / "wandb" / "id").read_text().strip() == first[0]
    assert (folder / "edit.safetensors").read_bytes() == (straight[0] / "edit.safetensors").read_bytes()


def test_a_finished_run_is_left_as_it_is(faults, server, straight):
    folder, _ = straight
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    done = server.run(folder.parents[3], f"resume={folder}", "logger=none", "grid_every=1", "evaluate=false")
    assert done["code"] == 0 and done["steps"] == 0 and "Nothing is left to do" in done["out"], done["err"]
    assert {path: path.read_bytes() for path in before} == before


def test_more_steps_grow_the_curve_and_the_seconds(faults, server):
    cwd = faults.place()
    assert server.run(cwd, *arguments(faults, "logger=csv"), "steps=2")["code"] == 0
    folder = run_folder(cwd)
    had, seconds = rows(folder), json.loads((folder / "metrics.json").read_text())["training_seconds"]
    straight = faults.straight("student, adam")
    for again in ({"logger": "none"}, {"logger": "csv"}):
        done = server.run(cwd, f"resume={folder}", f"steps={STEPS}", f"logger={again['logger']}", LOGGED)
        assert done["code"] == 0, done["err"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["training_seconds"] >= seconds and metrics["steps"] == STEPS
    assert rows(folder)[0]["train/loss"] == had[0]["train/loss"]
    assert (folder / "edit.safetensors").read_bytes() == straight.edit, "the record names an option twice, or one too many"


def test_what_it_was_composed_from_is_used_again(faults, server):
    cwd = faults.place()
    own = cwd / "own, too" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nlr: 2e-3\nsteps: 4\n")
    given = [argument for argument in faults.arguments("student, adam") if not argument.startswith(("lr=", "steps="))]
    done = server.run(cwd, "--config-dir", "own, too", "experiment=mine", *given, "steps=2")
    assert done["code"] == 0, done["err"]
    folder = run_folder(cwd)
    done = server.run(cwd, f"resume={folder.relative_to(cwd)}", "steps=4")
    assert done["code"] == 0, done["err"]
    assert json.loads((folder / "metrics.json").read_text())["record"]["lr"] == 2e-3
    (own / "mine.yaml").write_text("# @package _global_\nlr: 3e-3\nsteps: 4\n")
    done = server.run(cwd, f"resume={folder.relative_to(cwd)}", "steps=6")
    assert done["code"] == 2 and "lr was 0.002 when this run was begun, and is 0.003 now" in done["err"]
    own.parent.rename(cwd / "elsewhere")
    done = server.run(cwd, f"resume={folder.relative_to(cwd)}", "steps=6")
    assert done["code"] == 2 and "is gone: say with --config-dir where it is now" in done["err"]


def test_a_list_that_has_changed_since_is_noticed(faults, server):
    cwd = faults.place()
    cwd.mkdir()
    (cwd / "kept.txt").write_text("a dog\na car\n")
    assert server.run(cwd, *arguments(faults, "logger=none", "preserve=kept.txt", "steps=2"))["code"] == 0
    (cwd / "kept.txt").write_text("a dog\na house\n")
    again = server.run(cwd, f"resume={run_folder(cwd)}", "steps=4")
    assert again["code"] == 2 and "preserve_sha256 was " in again["err"] and again["err"].count("\n") == 1


def test_a_sweep_goes_on_without_touching_what_is_finished(faults, server):
    """The finished run's verdict, curve and W&B run are as they were, whatever is asked; each run has an id of its own."""
    cwd = faults.place()
    own = cwd / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nbatch: 2\n")
    given = [argument for argument in faults.arguments("student, adam") if "=" in argument and "logger" not in argument]
    given = [argument for argument in given if not argument.startswith(("concept=", "batch="))]
    asked = ("-m", "--config-dir", "own", "experiment=mine", "concept=pizza,cat", *given, LOGGED)
    everyone = {"env": {"WANDB_RUN_ID": "abc"}}
    straight = server.run(cwd, *asked, **everyone)
    assert straight["code"] == 0, straight["err"]
    (whole,) = cwd.glob("outputs/multirun/*/*")
    ids = {wandb_runs(folder)[0][0] for folder in whole.glob("?-*")}
    assert len(ids) == 2 and "abc" not in ids
    (whole / "1-cat" / "metrics.json").unlink()  # as if it had been stopped before its end
    pizza = whole / "0-pizza"
    metrics = json.loads((pizza / "metrics.json").read_text())
    verdict = {
        "base": {"erased": rate_figure(1, 1)},
        "edit": {"erased": rate_figure(0, 1), "kept": rate_figure(1, 2)},
        "protocol": "x",
    }
    (pizza / "metrics.json").write_text(json.dumps(metrics | verdict))
    before = {path: path.read_bytes() for path in pizza.iterdir() if path.is_file()}
    relative = str(whole.relative_to(cwd))
    others = ("evaluate=false", "logger=csv", "grid_every=1", "trainer.log_every_n_steps=3")
    done = server.run(cwd, "-m", f"resume={relative}", *others)
    assert done["code"] == 0 and done["steps"] == 0, done["err"]
    assert {path: path.read_bytes() for path in before} == before and len(wandb_runs(pizza)) == 1
    assert (whole / "1-cat" / "metrics.json").is_file()
    assert sorted(path.name for path in cwd.glob("outputs/multirun/*/*/*-*")) == ["0-pizza", "1-cat"]
    for changes in ("eta=2", "layers=esd-u", "trainer.gradient_clip_val=1"):
        done = server.run(cwd, "-m", f"resume={relative}", changes)
        name = changes.partition("=")[0]
        assert done["code"] == 2 and f"{name} is fixed once a run has begun" in done["err"]
    assert {path: path.read_bytes() for path in before} == before
    cat = whole / "1-cat" / "metrics.json"  # without a verdict it would be judged now
    cat.write_text(json.dumps(json.loads(cat.read_text()) | verdict))
    same = server.run(cwd, *asked, "resume=true", "evaluate=true", "logger=none")
    assert same["code"] == 0 and same["steps"] == 0, same["err"]
    assert {path: path.read_bytes() for path in before} == before


def test_each_option_once_and_only_those_of_the_edit():
    from esd.train.resume import each_once, edit_options

    assert each_once(["a=1", "+b=2", "a=3", "b=4"]) == ["a=3", "+b=4"]
    task = ["concept=dog", "steps=4", "logger=none", "trainer.precision=32-true", "trainer=cpu", "steps=6", "evaluate=false"]
    assert edit_options([*task, "logger=none", "resume=x"]) == ["concept=dog", "steps=6", "trainer.precision=32-true"]
    ending, several = ["stop=auto", "curve_every=5"], ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    assert edit_options(ending, stops=True) == ending and edit_options(["curve_every=5"]) == []
    assert edit_options(several, devices=2) == several[:2] and edit_options(several) == []
