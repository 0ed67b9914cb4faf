"""A tiny model of the real classes, and real runs of the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT, parts, tiny_pipeline

sys.path.append(str(Path(__file__).parent / "faults"))
from harness import Server  # noqa: E402

os.environ.setdefault("WANDB_MODE", "offline")
# Commands start as they do for people, from bytecode: without it each process compiles the libraries anew, for seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What starts a command in a process of its own, seconds each: fixtures, and what a test calls.
RUNS, STARTS = {"esd", "server", "wheel", "logged", "definition"}, {"Server", "subprocess", "dashboard"}


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
def server():
    """Forks a process for each run, so that the libraries are imported once a worker and not for ten seconds each."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def esd(server, tmp_path_factory):
    """esd("train", "concept=pizza", …) runs python -m esd.train in a folder of its own: CompletedProcess, with .folder.

    afresh: in a Python of its own, where what it imports or finds at its start is asked; else forked.
    judging_steps: of the emoji protocol's pictures, where a test asks what is counted and not what is seen; then nine objects
    stand for all the others.
    """

    def call(
        command: str, *arguments: str, cwd: Path | None = None, afresh: bool = False, judging_steps: int | None = None,
        **env: str | None,
    ):  # fmt: skip
        folder = cwd or tmp_path_factory.mktemp("run")
        env = {"ESD_CACHE": str(folder / "cache"), **env}
        if not afresh:
            made = server.run(folder, *arguments, command=command, env=env, watch=False, judging_steps=judging_steps)
            done = subprocess.CompletedProcess(arguments, made["code"], made["out"], made["err"])
        else:
            env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **env}
            done = subprocess.run(
                [sys.executable, "-m", f"esd.{command}", *arguments], cwd=folder, capture_output=True, text=True, timeout=600,
                env={name: value for name, value in env.items() if value is not None},
            )  # fmt: skip
        done.folder = folder
        return done

    return call
