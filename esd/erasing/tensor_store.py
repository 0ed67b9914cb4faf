"""Tensors that are made once and shared by all runs, as files: checked by hash, bounded, safe for several processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Collection, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from esd.files import atomic_write
from esd.models.hashes import tensor_hash


class TensorStore:
    """A folder of safetensors files, each named KEY.….safetensors by the hash of all that it depends on.

    limit: its size in GB; the least recently used files go when it is passed.
    """

    def __init__(self, folder: str | Path, limit: float):
        self.folder, self.limit = Path(folder), limit

    @contextlib.contextmanager
    def lock(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Hold a key, which other processes wait for (False: not had, without waiting); a dead process lets go of it."""
        with open(self.folder / f"{key}.lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True  # closing the file lets go

    def names(self, path: Path) -> set[str]:
        """Which tensors a file holds; none where it is damaged."""
        try:
            with safe_open(path, "pt") as file:
                return set(file.keys())
        except (SafetensorError, OSError):
            return set()

    def read(self, path: Path) -> dict[str, Tensor] | None:
        """Its tensors, memory-mapped; None where the file is missing, cut short, or not what was written."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                if tensor_hash(tensors) != file.metadata()["sha256"]:
                    return None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None
        with contextlib.suppress(OSError):  # another user's, who lets it be read
            path.touch()
        return tensors

    def write(self, path: Path, tensors: dict[str, Tensor], description: dict) -> None:
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, {"sha256": tensor_hash(tensors), "of": json.dumps(description, ensure_ascii=False)})

    def trim(self, held: str, keep: Collection[Path]) -> None:
        """Down to the limit, the least recently used first; not what is in use here, nor what another process is making.

        held: the key whose lock the caller holds.
        """
        stats = {}
        for path in self.folder.glob("[!.]*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # another process trims, too
                stats[path] = path.stat()
        size = sum(stat.st_size for stat in stats.values())
        for path, stat in sorted(stats.items(), key=lambda item: item[1].st_mtime):
            if size <= self.limit * 1e9:
                return
            if path in keep:
                continue
            key = path.name.partition(".")[0]
            with contextlib.ExitStack() as stack:
                stack.enter_context(contextlib.suppress(PermissionError))  # another user's
                if key == held or stack.enter_context(self.lock(key, wait=False)):
                    path.unlink(missing_ok=True)
                    size -= stat.st_size
