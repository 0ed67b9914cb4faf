"""A tiny model of the real classes, and real runs of the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT, parts, tiny_pipeline

os.environ.setdefault("WANDB_MODE", "offline")


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
    """esd("train", "concept=pizza", …) runs python -m esd.train in a folder of its own: CompletedProcess, with .folder."""

    def call(command: str, *arguments: str, cwd: Path | None = None, python: str = sys.executable, **env: str | None):
        folder = cwd or tmp_path_factory.mktemp("run")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
            "ESD_CACHE": str(folder / "cache"),
            **env,
        }
        environment = {name: value for name, value in environment.items() if value is not None}
        done = subprocess.run(
            [python, "-m", f"esd.{command}", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        done.folder = folder
        return done

    return call
