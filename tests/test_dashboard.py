"""The dashboard's keys against what a real offline run logs: no panel stays empty."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("wandb_workspaces", reason="the extra 'dashboard' is not installed")

ROOT = Path(__file__).parent.parent
# The real command; the judge's pictures are few and of one step, and say nothing.
TRAIN = """
import esd.emoji.protocol as protocol, esd.verdict as verdict, sys
protocol.STEPS, verdict.PICTURES = 1, 3
protocol.words.OBJECTS = dict(list(protocol.words.OBJECTS.items())[:20])
from esd.train import main
main()
"""
OPTIONS = (
    "concept=cat", "eta=2", "steps=20", "batch=4", "sampling_steps=4", "trainer.accelerator=cpu", "trainer.log_every_n_steps=5",
    "trajectories.walker=frozen",
)  # fmt: skip


def records(file):
    """The protocol buffers of a .wandb file, which has no public reader: a LevelDB log, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, []  # after W&B's own header
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """{"history": keys, "summary": keys, "config": keys} of an offline run of python -m esd.train."""
    folder = tmp_path_factory.mktemp("offline")
    environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", TRAIN, *OPTIONS], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("outputs/train/*/*/wandb/offline-run-*/*.wandb")
    keys = {"history": set(), "summary": set(), "config": set()}
    for record in records(file):
        for item in record.history.item:
            keys["history"].add(item.key or item.nested_key[0])
        for item in record.summary.update:
            keys["summary"].add(item.key or item.nested_key[0])
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
