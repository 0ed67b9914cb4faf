"""Looks at a few pictures while a run trains: its curves, and the end once nothing more is seen."""

import csv
import json

import pytest
from hydra import compose, initialize_config_dir

from esd import UserError
from esd.command.entry import CONF
from esd.protocols import emoji
from esd.train.curves import FEW, few_of
from esd.train.options import check_train_options
from esd.train.run_prompts import erased_concepts
from esd.train.verdict import check_curve, short_protocol


def test_a_few_of_each_group_spread_over_its_prompts():
    rows = emoji.rows(["cat"], 24, 8, 1)
    few = few_of(rows)
    counts = {group: sum(row.group == group for row in few) for group in FEW}
    assert counts == {"erased": 6, "erased_styled": 6, "erased_scene": 0, "lookalikes": 6, "kept": 12}
    assert len({row.prompt for row in few if row.group == "erased"}) == 3 and len(set(few)) == len(few)
    assert {row.prompt for row in few if row.group == "lookalikes"} == {row.prompt for row in rows if row.group == "lookalikes"}


def test_of_many_concepts_each_is_looked_at():
    gone = ["cat", "dog", "owl", "bus", "pizza", "taco", "key", "tent", "whale", "crab", "fluent"]
    few = few_of(emoji.rows(gone, 3, 1, 1))
    for group in ("erased", "erased_styled"):
        assert len({row.subject for row in few if row.group == group}) == len(gone)


@pytest.mark.run
def test_a_run_draws_its_curve_and_ends_when_nothing_is_seen(esd, tmp_path):
    """At this rate one step destroys every picture: after the second look the run is at its end."""
    asked = ("concept=cat", "steps=6", "batch=2", "grid=0", "logger=csv", "curve_every=1", "lr=0.1", "hydra.run.dir=run")
    done = esd("train", *asked, "stop=auto", cwd=tmp_path, judging_steps=3)
    assert done.returncode == 0, done.stderr
    assert "stopped at step 2 of 6" in " ".join(done.stdout.split())
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["steps"] == 2 and metrics["record"]["steps"] == 6 and metrics["record"]["stop"] == "auto"
    with open(tmp_path / "run/metrics.csv", newline="") as file:
        curve = {int(row["step"]): row["erased/seen"] for row in csv.DictReader(file) if row["erased/seen"]}
    assert set(curve) == {1, 2} and float(curve[1]) == 0
    edit = (tmp_path / "run/edit.safetensors").read_bytes()
    for file in ("edit.safetensors", "metrics.json"):  # as where the run is killed while its verdict is drawn
        (tmp_path / "run" / file).unlink()
    again = esd("train", "resume=run", cwd=tmp_path, judging_steps=3)
    assert again.returncode == 0 and "stopped at step 2 of 6" in " ".join(again.stdout.split())
    assert (tmp_path / "run/edit.safetensors").read_bytes() == edit
    command = metrics["record"]["command"]
    assert "curve_every=1" in command and "stop=auto" in command, "it is said where the run ends"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["stop=auto"], "stop=auto needs curve_every"),
        (["stop=soon", "curve_every=5"], "stop=soon is unknown: auto"),
        (["curve_every=5", "evaluate=false"], "curve_every=5 needs a judge"),
        (["curve_every=-1"], "curve_every=-1"),
    ],
)
def test_what_a_curve_needs(options, said):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["concept=cat", *options])
    with pytest.raises(UserError, match=said):
        check_train_options(cfg)
        check_curve(cfg, short_protocol(cfg, erased_concepts(cfg)))
