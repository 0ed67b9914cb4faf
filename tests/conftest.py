"""A tiny model of the real classes, and real runs of the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT, parts, tiny_pipeline

os.environ.setdefault("WANDB_MODE", "offline")
# Commands start as they do for people, from bytecode: without it each process compiles the libraries anew, for seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What starts a command in a process of its own, seconds each: fixtures, and what a test calls.
RUNS, STARTS = {"esd", "server", "wheel", "logged", "definition"}, {"Server", "subprocess", "dashboard"}

FEW_STEPS = (
    "import esd.protocols.emoji as it; far = it.far_off; it.STEPS, it.far_off = {0}, lambda gone: far(gone)[:9]; "
    "from esd.{1}.__main__ import main; main()"
)


def pytest_collection_modifyitems(items):
    """What starts such a process is marked `run`, so that it can be left out: make test FAST=1."""
    for item in items:
        calls = set(item.function.__code__.co_names + item.function.__code__.co_varnames)
        if RUNS & set(item.fixturenames) or STARTS & calls or "faults" in item.path.parts:
            item.add_marker("run")


@pytest.fixture(autouse=True)
def environment():
    """A command that runs in the tests' own process sets HYDRA_FULL_ERROR: those after it are not to inherit it."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    yield
    os.environ.pop("HYDRA_FULL_ERROR", None)
    if before is not None:
        os.environ["HYDRA_FULL_ERROR"] = before


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny(tiny_folder):
    """The same, loaded afresh: a test may change it."""
    from esd.models import load

    return load(str(tiny_folder), "tiny")


@pytest.fixture
def build(tiny):
    """build(concepts, …) → everything a training step needs, on the tiny model."""
    return lambda *args, **kwargs: parts(tiny, *args, **kwargs)


@pytest.fixture(scope="session")
def esd(tmp_path_factory):
    """esd("train", "concept=pizza", …) runs python -m esd.train in a folder of its own: CompletedProcess, with .folder.

    judging_steps: of the emoji protocol's pictures, where a test asks what is counted and not what is seen; then nine objects
    stand for all the others.
    """

    def call(
        command: str, *arguments: str, cwd: Path | None = None, python: str = sys.executable, judging_steps: int | None = None,
        **env: str | None,
    ):  # fmt: skip
        folder = cwd or tmp_path_factory.mktemp("run")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
            "ESD_CACHE": str(folder / "cache"),
            **env,
        }
        way = ["-m", f"esd.{command}"] if judging_steps is None else ["-c", FEW_STEPS.format(judging_steps, command)]
        environment = {name: value for name, value in environment.items() if value is not None}
        done = subprocess.run(
            [python, *way, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        done.folder = folder
        return done

    return call
