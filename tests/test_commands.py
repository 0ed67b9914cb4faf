"""The commands as people type them."""

import csv
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from offline import records
from tiny import ROOT

from esd.erasing.edit import read_edit

FAST = ("steps=2", "sampling_steps=4", "evaluate=false", "logger=none")


HEAVY = {"torch", "diffusers", "transformers", "pytorch_lightning", "wandb", "torchmetrics", "matplotlib", "peft", "sympy"}


def imported(lines: str) -> set[str]:
    """The modules in what Python writes with PYTHONPROFILEIMPORTTIME."""
    return {line.rsplit("|", 1)[-1].strip() for line in lines.splitlines() if line.startswith("import time:")}


def runs(folder):
    return sorted(path.parent for path in folder.glob("outputs/**/edit.safetensors"))


def test_a_run_leaves_what_is_promised(esd):
    done = esd("train", "concept=nudity", "eta=1.0", "steps=2", "sampling_steps=4", "checkpoint_every=1", judging_steps=2)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = runs(done.folder)
    left = {path.name for path in folder.iterdir()}
    assert {"edit.safetensors", "grid.png", "metrics.json", "metrics.csv", "checkpoints", ".hydra", "wandb"} <= left
    assert float(list(csv.DictReader((folder / "metrics.csv").open()))[-1]["erased/seen"]) <= 1  # what a report draws from
    assert len(list((folder / "checkpoints").iterdir())) == 2
    record = read_edit(folder).record
    assert record["concept"] == ["nudity"] and record["eta"] == 1.0 and record["layers"] == "kv" and record["steps"] == 2
    assert len(record["base_hash"]) == 64 and record["versions"]["torch"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["edit"]["erased"]["of"] == 24 and metrics["base"]["kept"]["of"] == 9
    first = done.stdout.splitlines()
    assert [line.split()[0] for line in first[:5]] == ["Erase", "Model", "Train", "Examples", "Results"]
    assert "esd.sample edit=" in done.stdout and "grid.png" in done.stdout
    checkpoint = folder / "checkpoints" / "step=2.ckpt"
    assert checkpoint.stat().st_size < 8e6, "a checkpoint holds the frozen model"

    drawn = esd(
        "sample", f"edit={folder}", "prompt=a pizza, hot", "count=2", "sampling_steps=4", cwd=done.folder,
        afresh=True, PYTHONPROFILEIMPORTTIME="1",
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr[-2000:]
    assert not imported(drawn.stderr) & {"pytorch_lightning", "torchmetrics", "matplotlib", "wandb", "torchvision"}
    (made,) = done.folder.glob("outputs/sample/*/*")
    assert (made / "grid.png").is_file() and len(list(made.glob("*/a-pizza-hot-*.png"))) == 4


def test_what_preserves_is_announced_with_the_rest(esd):
    asked = ("concept=pizza", *FAST, "batch=2", "preserve=[a dog]", "preserve_batch=3")
    done = esd("train", *asked, afresh=True, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert not imported(done.stderr) & {"wandb", "torchvision"}, "imported, and not used with logger=none"
    assert "2 steps of 2 and 3 that preserve 1 prompt;" in done.stdout


def test_a_sweep_is_one_folder_and_one_wandb_run_each(esd):
    done = esd(
        "train", "-m", "concept=pizza,cat", "layers=esd-x,esd-u", "steps=1", "sampling_steps=2", "evaluate=false", "grid=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    made = runs(done.folder)
    assert len(made) == 4 and len({path.parent for path in made}) == 1
    edits = [read_edit(path).record for path in made]
    assert {(*r["concept"], r["layers"]) for r in edits} == {(c, x) for c in ("pizza", "cat") for x in ("esd-x", "esd-u")}
    sweep = made[0].parent.relative_to(done.folder)
    assert done.stdout.count("wandb sync ") == 1 and f"wandb sync {sweep}/*/wandb/offline-run-*\n" in done.stdout
    (files,) = zip(*(path.glob("wandb/offline-run-*/run-*.wandb") for path in made), strict=True)
    began = [record.run for file in files for record in records(file) if record.HasField("run")]
    assert len({run.run_id for run in began}) == 4 and {run.run_group for run in began} == {made[0].parent.name}


def test_resuming_ends_in_the_same_edit(esd):
    asked = ("concept=pizza,cat", *FAST, "grid=0", "checkpoint_every=2")
    straight, part = esd("train", *asked, "steps=4"), esd("train", *asked, "steps=2")
    assert straight.returncode == part.returncode == 0, straight.stderr + part.stderr
    (a,), (b,) = runs(straight.folder), runs(part.folder)
    done = esd("train", f"resume={b}", "steps=4", cwd=part.folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert runs(part.folder) == [b], "a resumed run stays in its folder"
    a, b = read_edit(a).tensors, read_edit(b).tensors
    assert all((a[name] == b[name]).all() for name in a)


BAD = {  # as they are typed; tests/faults/test_bad_input.py has the many, in forked processes
    "layers=nonsense": "nonsense",
    "eta=-1": "eta=-1",
    "model=sd14": "hub cannot be reached",
    "concept=gargoyle": "gargoyle",
}


@pytest.mark.parametrize("argument", BAD)
def test_bad_input_ends_in_one_line(esd, argument):
    concept = [] if argument.startswith("concept=") else ["concept=pizza"]
    done = esd("train", *concept, argument)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and BAD[argument] in line
    assert not runs(done.folder)


def test_no_concept_at_all_is_said(esd):
    done = esd("train")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "concept" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("concept=pizza", "eta=abc"), ("concept=pizza", "concpt=x"), ("concept=gargoyle",)]
)
def test_nothing_heavy_is_imported_before_the_configuration_is_valid(esd, arguments):
    done = esd("train", *arguments, afresh=True, PYTHONPROFILEIMPORTTIME="1")
    assert "hydra" in imported(done.stderr) and not imported(done.stderr) & HEAVY


def test_nothing_heavy_is_imported_before_the_first_line(tmp_path):
    """It is there within a second; torch and the libraries around it are loaded behind it."""
    run = subprocess.Popen(
        [sys.executable, "-u", "-X", "importtime", "-m", "esd.train", "concept=pizza"], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    lines = "".join(itertools.takewhile(lambda line: not line.startswith("Erase  "), run.stdout))
    run.kill()
    run.wait()
    assert "hydra" in imported(lines) and not imported(lines) & HEAVY


def test_a_rule_that_matches_nothing_is_an_error(esd):
    done = esd("train", "concept=pizza", "layers=xlayer", *FAST)
    assert done.returncode == 2 and "layers=xlayer matches no weight" in done.stderr


def test_two_runs_of_the_same_second_do_not_share_a_folder(tmp_path):
    code = "from esd.files import new_folder; print(new_folder('out', 'same'))"
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {p.communicate()[0].strip() for p in both} == {"out/same", "out/same-2"}


def test_wandb_without_a_key_neither_asks_nor_waits(esd, tmp_path):
    """No key, no network, no terminal: the run is offline at once."""
    started = time.time()
    options = ("steps=1", "sampling_steps=2", "evaluate=false", "experiment=null")
    done = esd("train", "concept=pizza", *options, afresh=True, HOME=str(tmp_path), WANDB_MODE=None)
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = done.folder.glob("outputs/train/*/*/wandb/offline-run-*")
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("Weights & Biases")]
    place = run.parent
    assert said == f"Weights & Biases has no key here, and is offline: kept for later, wandb sync {place}/offline-run-*"
    assert time.time() - started < 120


def test_flags_may_stand_between_options():
    from hydra._internal.utils import get_args_parser

    from esd.command.entry import flags_first

    given = ["concept=a", "--config-dir", "own", "eta=1", "-m", "steps=2", "--config-name=x", "-cd", "b"]
    wanted = ["--config-dir", "own", "-m", "--config-name=x", "-cd", "b", "concept=a", "eta=1", "steps=2"]
    assert flags_first(given, get_args_parser()) == wanted
    assert get_args_parser().parse_args(wanted).overrides == ["concept=a", "eta=1", "steps=2"]


def test_a_home_that_nobody_has_is_a_users_error():
    from esd.command.entry import error_line, is_user_error

    with pytest.raises(RuntimeError) as raised:
        Path("~nobody-of-that-name/edit.safetensors").expanduser()
    assert is_user_error(raised.value) and "home directory" in error_line(raised.value)
    assert not is_user_error(RuntimeError("anything else"))
