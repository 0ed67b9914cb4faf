"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from esd.command import Mistake

PARTIAL = ".partial-"  # begins the names of files that are being written


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on leaving it is synced and takes the name `path` in one step.

    On any error the temporary file goes and what stood at `path` stays. A full disk raises Mistake.
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
        if no_space(error):
            raise Mistake(f"no space left to write {path}: what was there is unchanged") from error
        raise
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def no_space(error: BaseException | None) -> bool:
    """Whether a full disk is behind this error: torch and safetensors wrap it in errors of their own."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "(os error 28)" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def sweep_up(folder: Path, stem: str = "") -> None:
    """Remove what killed processes had not finished writing in this folder and those below it: of files so named, or all."""
    for path in folder.rglob(f"{PARTIAL}{stem}*"):
        path.unlink(missing_ok=True)


def read_json(path: Path) -> dict:
    """What a JSON file holds. Raises Mistake where it cannot be read, or is no {object}."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Mistake(f"{path} is damaged ({error}): copy, download or make it again") from error
    if not isinstance(value, dict):
        raise Mistake(f"{path} is damaged (it holds a {type(value).__name__}): copy, download or make it again")
    return value


def write_json(path: str | os.PathLike, value: object) -> None:
    with whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
