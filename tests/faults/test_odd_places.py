"""Runs in places where not all is as usual: what must be left is left, where it should be, and nowhere else."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT, Server
from trials import run_folder

from esd.command.words import hydra_literal

SMALL = ("steps=2", "sampling_steps=2", "batch=1", "evaluate=false")
PLACE = "Größe, Maß & Ort ☕/it's [a] $place = {here}"


def listing(folder: Path) -> dict[str, int]:
    """Every file in it, with its time; what Python itself keeps of modules is not the program's."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_spaces_and_letters_of_the_world_in_every_path(server, tiny_folder, tmp_path):
    work = tmp_path / PLACE
    model = shutil.copytree(tiny_folder, work / "ein Modell, größer")

    def run(command: str, *arguments: str) -> dict:
        done = server.run(work, *arguments, command=command)
        assert done["code"] == 0, done["err"]
        return done

    arguments = ("concept=crème brûlée", f"model.path={model}", "checkpoint_every=1", *SMALL)
    cached = ("logger=wandb", "trajectories=cache", "trajectories.walks=2", f"trajectories.folder={work}/cáche")
    done = run("train", *arguments, *cached)
    folder = run_folder(work)
    record = json.loads((folder / "metrics.json").read_text())["record"]
    assert record["concept"] == ["crème brûlée"]
    beside = ("checkpoint_", "evaluate", "logger", "grid", "trainer")  # on which the edit does not depend
    typed = [argument for argument in (*arguments, *cached) if not argument.startswith(beside)]
    assert shlex.split(record["command"])[2:] == ["esd.train", *typed]  # as it was typed
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
    edit = (folder / "edit.safetensors").read_bytes()
    (folder / "edit.safetensors").unlink()
    run("train", f"resume={folder}")
    assert (folder / "edit.safetensors").read_bytes() == edit
    (following,) = [line.removeprefix("Next: ") for line in done["out"].splitlines() if line.startswith("Next: ")]
    assert f"model.path={shlex.quote(str(model))}" in following or f'model.path="{model}"' in following
    run("sample", *shlex.split(following)[3:], "count=1", "sampling_steps=2")
    run("export", f"edit={folder}/edit.safetensors", f"model.path={model}", "to=diffusers")
    table = work / "prompts é.csv"
    table.write_text("prompt,evaluation_seed\nein Bär,1\n", encoding="utf-8")
    run("evaluate", f"edit={folder}", f"model.path={model}", "protocol=prompts", f"protocol.csv={table}", "sampling_steps=2")
    # In a sweep a comma divides values, but not in quotes.
    run("train", "-m", "eta=1,2", *arguments, f"model.path={hydra_literal(str(model))}", "logger=none")
    run("report", str(next(work.glob("outputs/multirun/*/*"))))
    left = {path.name for path in work.iterdir()}
    assert left == {"ein Modell, größer", "outputs", "cáche", "prompts é.csv"}, left
    assert not [path for path in work.glob("outputs/**/*.log") if "wandb" not in path.parts]
    assert [path.name for path in tmp_path.iterdir()] == [PLACE.partition("/")[0]]


def test_a_read_only_package_no_home_and_no_terminal(tmp_path):
    package = tmp_path / "site" / "esd"
    shutil.copytree(ROOT / "esd", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", package / "conf")  # as it lies in the wheel
    before = listing(package)
    for path in (package, *package.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    # Root may write to what is read-only, unless it is mounted so.
    mounted = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && ! touch "$0/x" 2>/dev/null && exec "$@"'
    inside = ["unshare", "-rm", "sh", "-c", mounted, str(package)]
    if subprocess.run([*inside, "true"], capture_output=True).returncode != 0:
        inside = []  # root without a right to mount: at least nothing in the package may change
    work = tmp_path / "work"
    work.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in ("HOME", "TERM", "ESD_CACHE")}
    env |= {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    command = [*inside, sys.executable, "-m", "esd.train", "concept=pizza", *SMALL, "logger=wandb"]
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (run_folder(work) / "edit.safetensors").is_file() and "\x1b" not in done.stdout + done.stderr
    assert listing(package) == before and [path.name for path in work.iterdir()] == ["outputs"]


def test_a_home_that_is_not_there(server, tiny_folder, tmp_path):
    for n, home in enumerate((None, "/nonexistent", "/proc/1/nothing")):
        done = server.run(
            tmp_path / str(n), "concept=a", f"model.path={tiny_folder}", *SMALL, "logger=wandb",
            env={"HOME": home, "XDG_CONFIG_HOME": None, "XDG_CACHE_HOME": None},
        )  # fmt: skip
        assert done["code"] == 0, done["err"]
        assert (run_folder(tmp_path / str(n)) / "edit.safetensors").is_file()


def on_a_terminal(cwd: Path, *arguments: str, **env: str) -> str:
    """All that a run says on a terminal, a real one as far as it can tell."""
    cwd.mkdir(parents=True)
    ours, theirs = pty.openpty()
    environment = {"TERM": "xterm-256color", "COLUMNS": "100", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env}
    environment = {**{name: value for name, value in os.environ.items() if name != "NO_COLOR"}, **environment}
    command = [sys.executable, "-m", "esd.train", *arguments]
    run = subprocess.Popen(command, cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            said += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert run.wait(300) == 0, said.decode()
    return said.decode()


COLOURS = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9[0-7])(?:;[\d;]*)?m")


@pytest.mark.parametrize(
    ("env", "moves", "colours"), [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, False, False)]
)
def test_terminals_get_what_they_can_show(tiny_folder, tmp_path, env, moves, colours):
    said = on_a_terminal(tmp_path / "work", "concept=a", f"model.path={tiny_folder}", *SMALL, "logger=none", **env)
    assert ("\x1b" in said, bool(COLOURS.search(said))) == (moves, colours), said
    assert "Erase" in said and "Next:" in said and run_folder(tmp_path / "work")


def test_runs_of_the_same_second_have_folders_of_their_own(server, tiny_folder, tmp_path):
    """Two processes at the same time, with the same clock."""
    from concurrent.futures import ThreadPoolExecutor

    place = "hydra.run.dir='${new_folder:outputs/train/2026-01-01,12-00-00-a}'"
    arguments = ("concept=a", f"model.path={tiny_folder}", *SMALL, "logger=wandb", place)
    other = Server()
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(its.run, tmp_path, *arguments) for its in (server, other)]
        codes = [run.result()["code"] for run in both]
    other.close()
    folders = sorted(tmp_path.glob("outputs/train/*/*"))
    assert codes == [0, 0] and [folder.name for folder in folders] == ["12-00-00-a", "12-00-00-a-2"]
    assert all((folder / "metrics.json").is_file() for folder in folders)
    runs = [run.name for folder in folders for run in folder.glob("wandb/offline-run-*")]
    assert len(set(runs)) == 2
