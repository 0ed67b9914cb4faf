"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from omegaconf import ListConfig

from esd import UserError

# In the checkout conf/ stands beside the package, in the wheel it lies inside.
PACKAGE = Path(__file__).parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())


def remove_unused_folders() -> None:
    """Of the folders that were made fresh and never used, those that hold only what Hydra notes down by itself."""
    for folder in _NEW_FOLDERS:
        left = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".hydra"]
        if all(path.name == "multirun.yaml" for path in left):
            shutil.rmtree(folder, ignore_errors=True)


def keep_new_folders() -> None:
    """The folders that were made fresh stay from now on, however the run ends."""
    _NEW_FOLDERS.clear()


@functools.cache  # Hydra resolves it more than once; two runs started in the same second get two folders
def new_folder(parent: str, name: str) -> str:
    """A folder parent/name that did not exist, made now; -2, -3, … is added until one is new."""
    Path(parent).mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        folder = Path(parent) / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        _NEW_FOLDERS.append(folder.absolute())
        return str(folder)
    raise UserError(f"{parent} already holds a thousand folders named {name}: clear it out")


_NEW_FOLDERS: list[Path] = []  # by this process, and not in use yet


def slug(text: object, length: int = 40) -> str:
    """A name that is safe in any path: letters, digits and dashes; never empty, never a path."""
    parts = text if isinstance(text, list | tuple | ListConfig) else [text]
    cleaned = [re.sub(r"[^\w]+", "-", str(part), flags=re.ASCII).strip("-_") for part in parts]
    return "-".join(filter(None, cleaned))[:length].strip("-_").lower() or "run"


PARTIAL = ".partial-"  # begins the names of files that are being written


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on leaving it is synced and takes the name `path` in one step.

    On any error the temporary file goes and what stood at `path` stays. A full disk raises UserError.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{PARTIAL}{path.stem[:40]}-", suffix=path.suffix)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except Exception as error:
        if is_disk_full(error):
            raise UserError(f"no space left to write {path}: what was there is unchanged") from error
        raise
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind this error: torch and safetensors wrap it in errors of their own."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "(os error 28)" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def remove_partial_files(folder: Path, stem: str = "") -> None:
    """Remove what killed processes had not finished writing in this folder and those below it: of files so named, or all."""
    for path in folder.rglob(f"{PARTIAL}{stem}*"):
        path.unlink(missing_ok=True)


def read_json(path: Path) -> dict:
    """What a JSON file holds. Raises UserError where it cannot be read, or is no {object}."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): copy, download or make it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (it holds a {type(value).__name__}): copy, download or make it again")
    return value


def write_json(path: str | os.PathLike, value: object) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
