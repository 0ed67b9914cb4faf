"""A table of the results page as a file, outputs/gallery/NAME.json, beside what it was measured with.

A file holds {title, text, command, machine, date, weights, code, columns, rows, notes} and, where there are any, pictures:

    text        one paragraph of Markdown above the table; notes, a list of them, stand below it
    command     what a person types to measure it again
    machine     the processor (and the GPU), its cores
    date        the day it was measured, 2026-11-25
    weights     `weights_hash()` of the embedded model and its judge; of a table that has nothing to do with them, in words
    code        {"commit": the repository's, "files": {path: hash}}: `code_of` of those files that make the table
    columns     their names; rows, lists of as many cells, text or numbers
    pictures    [[file beside it, caption], …]

esd.bench.page writes the page from these files and says of a table that its weights or its makers' code are others by now.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

from esd.files import write_json

GALLERY = Path("outputs/gallery")
ROOT = Path(__file__).parents[2]  # of the checkout
KEYS = ("title", "text", "command", "machine", "date", "weights", "code", "columns", "rows", "notes")


def write_result(
    name: str, *, title: str, text: str, command: str, columns: list[str], rows: list[list], makers: list[str],
    notes: list[str] = (), weights: str | None = None, pictures: list[list[str]] = (), folder: Path = GALLERY,
) -> None:  # fmt: skip
    """Write outputs/gallery/NAME.json: this table, as it was measured here and now.

    makers: the files and folders of the checkout that make the table, for example ["esd/studies"]; of a folder, its *.py.
    weights: in words where the embedded model has no part in it (default: the embedded model's hash).
    """
    result = {
        "title": title, "text": text, "command": command, "machine": machine(), "date": date.today().isoformat(),
        "weights": weights or weights_hash(), "code": code_of(makers), "columns": columns, "rows": rows, "notes": list(notes),
    }  # fmt: skip
    write_json(folder / f"{name}.json", result | ({"pictures": pictures} if pictures else {}))


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = info.read_text().partition("model name")[2].partition("\n")[0] if info.is_file() else ""
    return names.strip("\t :") or platform.processor() or platform.machine()


def machine() -> str:
    """The processor, its cores, and the GPU where torch is in use and has one."""
    torch = sys.modules.get("torch")
    gpu = f", {torch.cuda.get_device_name()}" if torch and torch.cuda.is_available() else ""
    return f"{processor()}, {os.cpu_count()} cores{gpu}"


def weights_hash(model: str = "model") -> str:
    """Of the embedded model's (or its twin's, "twin") and its judge's weights: 16 hex digits of SHA-256 over the files."""
    files = [*ROOT.glob(f"esd/emoji/{model}/**/*.safetensors"), *ROOT.glob("esd/emoji/judge/*.safetensors")]
    return _digest(
        b"".join(f"{file.relative_to(ROOT).as_posix()} {_digest(file.read_bytes())}\n".encode() for file in sorted(files))
    )


def code_of(makers: list[str]) -> dict:
    """The commit (with "+" where files differ from it), and a hash of every file that makes a table."""
    files = [
        file for path in makers for file in (sorted((ROOT / path).glob("*.py")) if (ROOT / path).is_dir() else [ROOT / path])
    ]
    commit = _git("rev-parse", "--short", "HEAD") or "no commit"
    changed = "+" if _git("status", "--porcelain", "--untracked-files=no", "--", "esd", "conf", "tests") else ""
    return {"commit": commit + changed, "files": {file.relative_to(ROOT).as_posix(): file_hash(file) for file in files}}


def file_hash(file: Path) -> str:
    """16 hex digits of SHA-256 over the file, or "" where there is none."""
    return _digest(file.read_bytes()) if file.is_file() else ""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _git(*arguments: str) -> str:
    """What git says, or nothing where there is none or this is no checkout."""
    try:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
