"""The dashboard's keys against what a real offline run logs: no panel stays empty."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from offline import records

pytest.importorskip("wandb_workspaces", reason="the extra 'dashboard' is not installed")

ROOT = Path(__file__).parent.parent
# The real command; the judge's pictures are few and of one step, and say nothing.
TRAIN = """
import esd.protocols.emoji as protocol
protocol.STEPS, protocol.SHORT = 1, {"pictures": 3, "lookalike": 1, "kept": 1}
protocol.words.OBJECTS = dict(list(protocol.words.OBJECTS.items())[:20])
from esd.train.__main__ import main
main()
"""
OPTIONS = (
    "concept=cat,dog", "eta=2", "steps=20", "batch=4", "sampling_steps=4", "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=5", "trajectories.walker=frozen",
)  # fmt: skip


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """{"history": keys, "summary": keys, "config": keys, "tags": …, "defined": {key: (along what, its summary)}} of an
    offline run of python -m esd.train."""
    folder = tmp_path_factory.mktemp("offline")
    environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", TRAIN, *OPTIONS], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("outputs/train/*/*/wandb/offline-run-*/*.wandb")
    keys = {"history": set(), "summary": set(), "config": set(), "tags": set(), "defined": {}, "values": {}}
    for record in records(file):
        keys["tags"] |= set(record.run.tags)
        if name := record.metric.name or record.metric.glob_name:
            summaries = tuple(field.name for field, on in record.metric.summary.ListFields() if on)
            keys["defined"][name] = (record.metric.step_metric, *summaries)
        for item in record.history.item:
            keys["history"].add(item.key or item.nested_key[0])
        for item in record.summary.update:
            keys["summary"].add(item.key or item.nested_key[0])
            keys["values"][item.key or item.nested_key[0]] = json.loads(item.value_json)
        for source in (record.config.update, record.run.config.update):
            keys["config"] |= {item.key or item.nested_key[0] for item in source}
    return keys


def dashboard(*arguments, **env):
    """A run of the command, with nobody at the terminal."""
    command = [sys.executable, "-m", "esd.dashboard", *arguments]
    environment = os.environ | env
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def definition():
    """What --print shows, from a real run of the command."""
    done = dashboard("team/esd", "--print")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def panels(definition):
    sections = definition["spec"]["section"]["panelBankConfig"]["sections"]
    return [(panel["viewType"], panel["config"]) for section in sections for panel in section["panels"]]


def test_every_key_of_every_panel_is_logged(definition, logged):
    text = json.dumps([panels(definition), definition["spec"]["section"]["runSets"]])
    summary = set(re.findall(r'"summary:([^"]+)"', text))
    summary |= {config["targetKey"] for _, config in panels(definition) if "targetKey" in config}
    configured = set(re.findall(r'"(?:config|c):+([^"]+?)(?:\.value)?"', text))
    curves = {key for kind, config in panels(definition) for key in config.get("metrics", [])}
    media = {key for _, config in panels(definition) for key in config.get("mediaKeys", [])}
    assert {"erased/seen", "kept/objects", "kept/distance", "score"} <= summary and "eta" in configured
    assert "train/loss" in curves and media == {"grid/before_after"}
    assert summary - logged["summary"] - logged["history"] == set()
    assert configured - logged["config"] == set()
    assert (curves | media) - logged["history"] == set()


def test_a_run_is_tagged_and_its_curves_run_over_the_steps(definition, logged):
    step = "trainer/global_step"  # W&B's own step counts what was logged
    assert logged["tags"] == {"cat", "dog", "kv"}
    assert logged["defined"] == {step: ("",), "*": (step,)} and step in logged["history"]
    assert {config["xAxis"] for kind, config in panels(definition) if kind == "Run History Line Plot"} == {step}


def test_every_summary_value_is_a_plain_number(logged):
    """A second pattern that fits a key (kept/*) would race with Lightning's "*": {"last": value}, of other keys each time."""
    plain = {key for key, value in logged["values"].items() if isinstance(value, int | float) and not isinstance(value, bool)}
    assert set(logged["values"]) - plain <= {"grid/before_after", "_wandb", "lost"}  # the last: names
    assert {"erased/seen", "kept/objects", "train/loss", "score"} <= plain


def test_each_section_is_explained(definition):
    sections = definition["spec"]["section"]["panelBankConfig"]["sections"]
    names = ["Erased and kept", "What made the difference", "Before and after", "Training"]
    assert [section["name"] for section in sections] == names
    for section in sections:
        assert section["panels"][0]["viewType"] == "Markdown Panel" and len(section["panels"]) > 1


@pytest.mark.parametrize("given", ["team", "team/", "/esd", "a/b/c"])
def test_a_project_is_two_words(given):
    done = dashboard(given)
    assert done.returncode == 2 and "ENTITY/PROJECT" in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_a_key_it_says_so_and_asks_nobody(tmp_path):
    done = dashboard("team/esd", WANDB_API_KEY="", NETRC=str(tmp_path / "none"))
    assert done.returncode == 2 and "no key" in done.stderr
