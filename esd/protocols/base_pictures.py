"""The base model's pictures: drawn once for each (weights, protocol, sampling, precision), kept on disk, shared by all runs.

A picture of a row depends on these and on the row alone, so whoever asks for it gets the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from esd import UserError
from esd.erasing.tensor_store import TensorStore
from esd.models.encoders import text_encoders_again
from esd.models.family import Model
from esd.models.hashes import fingerprint
from esd.protocols import Row

VERSION = 1  # of the files' layout and of what they depend on
LIMIT = 2.0  # GB
SHARES = 4  # of what is to be drawn: each is kept when it is drawn, and may be another process's


def precision_of(device: torch.device, dtype: torch.dtype) -> str:
    """In what the denoiser computes here and now."""
    mixed = torch.is_autocast_enabled(device.type)
    return f"{torch.get_autocast_dtype(device.type)} mixed" if mixed else str(dtype)


def in_bytes(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] as a file has them: uint8, of the same shape."""
    return pictures.mul(255).round().byte()


def other_parts(model: Model) -> dict[str, str]:
    """The hashes of what a model draws with beside its denoiser, by their names: the autoencoder, the text encoders."""
    parts = {name: part for name, part in model.base.components.items() if isinstance(part, nn.Module)}
    parts |= text_encoders_again(model)
    return {name: fingerprint(part) for name, part in sorted(parts.items()) if part is not model.denoiser}


def made_with(model: Model, protocol: str, steps: int, device: torch.device, sampler: str = "own") -> dict:
    """All that a picture depends on beside its row. device: where it will be drawn; sampler: as sample() is told."""
    return {
        "version": VERSION,
        "base": model.base_hash,
        "others": other_parts(model),
        "protocol": protocol,
        "steps": steps,
        "sampler": sampler,
        "precision": precision_of(device, next(model.denoiser.parameters()).dtype),
        "device": device.type,
    }


class BasePictures(TensorStore):
    """Those in outputs/cache/pictures, or in $ESD_CACHE/pictures."""

    def __init__(self, folder: str | Path | None = None, limit: float = LIMIT):
        super().__init__(folder or Path(os.environ.get("ESD_CACHE", "outputs/cache"), "pictures"), limit)

    def get(
        self,
        rows: Sequence[Row],
        of: dict,
        draw: Callable[[Sequence[Row]], Tensor],
        done: Callable[[int], None] = lambda n: None,
    ) -> Tensor:
        """The rows' pictures (n, 3, H, W), uint8, all of one size: read, or drawn and kept.

        of: what they depend on (made_with); draw: makes them in [0, 1], and says itself what is done; done(n): n were there.
        Where no file can be written they are drawn all the same.
        """
        asked = {row.file: row for row in rows}  # a picture that counts in two groups is one
        key = self.key(of)
        found, used = self.kept(key, set(asked))
        done(len(found))
        shares: dict[str, list[Row]] = {}  # drawn under a lock each, so that processes which want the same share the work
        for name, row in asked.items():
            if name not in found:
                shares.setdefault(f"{key}.{int(hashlib.sha256(name.encode()).hexdigest(), 16) % SHARES}", []).append(row)
        for wait in (False, True):  # first what no other process is drawing now
            for share, its in list(shares.items()):
                with self.claim(share, wait) as had:
                    if not had:
                        continue
                    there, files = self.kept(key, {row.file for row in its})  # another process may have been here
                    done(len(there))
                    found |= there
                    used += files
                    if missing := [row for row in its if row.file not in found]:
                        drawn = in_bytes(draw(missing))
                        made = {row.file: picture.contiguous() for row, picture in zip(missing, drawn, strict=True)}
                        found |= made
                        with contextlib.suppress(OSError, UserError):
                            used.append(self.written(key, made, of))
                    del shares[share]
        if used:
            self.trim(key, used)
        return torch.stack([found[row.file] for row in rows])

    @contextlib.contextmanager
    def claim(self, name: str, wait: bool) -> Iterator[bool]:
        """A lock on what is to be drawn (False: another process has it); where no file can be written, had by everybody."""
        with contextlib.ExitStack() as held:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                had = held.enter_context(self.lock(name, wait))
            except OSError:
                had = True
            yield had

    def key(self, of: dict) -> str:
        return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:24]

    def count(self, rows: Sequence[Row], of: dict) -> int:
        """How many of the rows' pictures are there, unless damaged."""
        files = self.folder.glob(f"{self.key(of)}.*.safetensors")
        return len(set().union(*map(self.names, files)) & {row.file for row in rows})

    def kept(self, key: str, wanted: set[str]) -> tuple[dict[str, Tensor], list[Path]]:
        """Those of the wanted that are there, by name, and the files they are in. Damaged files go."""
        found, used = {}, []
        for path in sorted(self.folder.glob(f"{key}.*.safetensors")):
            names = self.names(path)
            if names and wanted.isdisjoint(names):
                continue
            pictures = self.read(path)
            if pictures is None:
                with contextlib.suppress(PermissionError):  # another user's
                    path.unlink(missing_ok=True)
                continue
            found |= {name: picture for name, picture in pictures.items() if name in wanted}
            used.append(path)
        return found, used

    def written(self, key: str, pictures: dict[str, Tensor], of: dict) -> Path:
        """The file that now holds them."""
        name = hashlib.sha256("\n".join(sorted(pictures)).encode()).hexdigest()[:8]
        path = self.folder / f"{key}.{name}.safetensors"
        self.write(path, pictures, of | {"pictures": len(pictures)})
        return path
