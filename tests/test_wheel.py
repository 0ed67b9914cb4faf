"""What people install: the built wheel, in an environment of its own, run from another folder."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from tiny import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT], check=True, capture_output=True
    )
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_all_it_needs_and_no_more(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "esd/conf/train.yaml",
        "esd/emoji/model/unet/config.json",
        "esd/emoji/judge/judge.safetensors",
        "esd/protocols/everyday.txt",
        "esd/emoji/art/noto.webp",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests", "outputs")) or "__pycache__" in name]
    assert wheel.stat().st_size < 60e6


def test_the_wheel_trains_from_another_folder(wheel, tmp_path):
    """An empty environment and the installed wheel; its dependencies, 5 GB of them, are read from this environment."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    subprocess.run([sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "-p", python, wheel], check=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    outer = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "zz-dependencies.pth").write_text(outer + "\n")
    away = tmp_path / "élsewhere with spaces"
    away.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    run = lambda *a: subprocess.run([python, *a], cwd=away, env=environment, capture_output=True, text=True)  # noqa: E731
    where = run("-c", "import esd, esd.command.entry; print(esd.__file__, esd.command.entry.CONF)")
    assert where.stdout.split()[0].startswith(str(site)) and where.stdout.split()[1] == str(site / "esd/conf"), where
    done = run("-m", "esd.train", "concept=pizza", "steps=1", "sampling_steps=2", "evaluate=false", "logger=none")
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(Path(away).glob("outputs/train/*/*/edit.safetensors"))
