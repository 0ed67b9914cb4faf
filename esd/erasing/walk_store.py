"""The frozen model's walks on disk: rolled out once for each (model, prompts, schedule), shared by all runs.

A file is one concept in one phrasing: x_t, ε_c, ε_∅ (and ε_f) of K walks at all N positions, named by the hash of all
that they depend on. One process writes, the others wait; a file that is damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from esd.erasing.concepts import Draw
from esd.erasing.tensor_store import TensorStore
from esd.erasing.trajectories import Denoisers, Examples
from esd.erasing.walks import guide
from esd.files import remove_partial_files
from esd.models.hashes import fingerprint, tensor_hash

VERSION = 3  # of the file's layout and of what the walks depend on


def noise_seeds(seed: int, walks: int) -> Tensor:
    """The noise seeds of walks 0 … K−1."""
    return torch.tensor([int(np.random.default_rng([seed, walk]).integers(2**62)) for walk in range(walks)])


def computed_in(device: torch.device) -> str:
    """The precision that a forward here and now computes in."""
    mixed = torch.is_autocast_enabled(device.type)
    return str(torch.get_autocast_dtype(device.type) if mixed else torch.float32)


@torch.inference_mode()
def roll_out(denoisers: Denoisers, concept: int, template: int, seeds: Tensor, done: Callable[[int], None]) -> list[Tensor]:
    """Walks from these noise seeds: x_t, ε_c, ε_∅ and ε_f at every position, each (K, N, C, h, w)."""
    device, n = denoisers.prompts.c.device, len(denoisers.sampler)
    x = denoisers.sampler.start(denoisers.model.noise(seeds)).to(device)
    fill = torch.full((len(seeds),), concept, device=device)
    stops: list[Examples] = []
    for position in range(n):
        draw = Draw(fill, torch.full_like(fill, template), torch.full_like(fill, position), fill)
        here = denoisers.teacher_predictions(x, draw)
        stops.append(Examples(*(tensor.cpu() for tensor in here)))
        x = denoisers.sampler.step(x, guide(here.eps_c, here.eps_null, denoisers.guidance), draw.position)
        done(len(seeds))
    return [torch.stack(tensors, dim=1) for tensors in zip(*stops, strict=True)]


class WalkStore(TensorStore):
    """A folder of walks."""

    def __init__(self, folder: str | Path, walks: int, seed: int, dtype: torch.dtype, chunk: int, limit: float):
        super().__init__(folder, limit)
        self.walks, self.seed, self.dtype = walks, seed, dtype
        self.chunk = chunk  # walks rolled out at once, and kept if the run is cut

    def description(self, denoisers: Denoisers, concept: int, template: int) -> dict:
        """All that the walks depend on."""
        at = (concept, template)
        return {
            "version": VERSION,
            "base": fingerprint(denoisers.model.denoiser),  # as it is stored, which is what walks
            "text_encoders": denoisers.text_encoders,
            "latents": denoisers.model.latent_shape,
            "c": denoisers.prompts.texts[denoisers.prompts.c[at]],
            "f": denoisers.prompts.texts[denoisers.prompts.f[at]],
            "sampler": type(denoisers.sampler).__name__,
            "timesteps": denoisers.sampler.timesteps.tolist(),
            "sampler_tables": tensor_hash(dict(denoisers.sampler.named_buffers())),
            "v_prediction": getattr(denoisers.sampler, "v_prediction", False),
            "guidance": denoisers.guidance,
            "walks": self.walks,
            "seed": self.seed,
            "computed_in": computed_in(denoisers.prompts.c.device),
            "dtype": str(self.dtype),
        }

    def stops(self, path: Path, own_f: bool) -> Examples | None:
        """The walks of a file; None where there is none that is as it was written."""
        tensors = self.read(path)
        if tensors is None:
            return None
        eps_f = tensors["eps_f"] if "eps_f" in tensors else tensors["eps_c" if own_f else "eps_null"]
        return Examples(tensors["x_t"], tensors["eps_c"], tensors["eps_null"], eps_f)

    def keep(self, path: Path, tensors: dict[str, Tensor], description: dict) -> None:
        self.write(path, {name: tensor.to(self.dtype).contiguous() for name, tensor in tensors.items()}, description)

    def get(self, denoisers: Denoisers, concept: int, template: int, done: Callable[[int], None]) -> Examples:
        """The walks of one concept in one phrasing: read, or rolled out and kept. done(n): n more stops are there."""
        description = self.description(denoisers, concept, template)
        key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:24]
        path = self.folder / f"{key}.safetensors"
        own_f = description["c"] == description["f"]
        total = self.walks * len(denoisers.sampler)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.lock(key):
            if (found := self.stops(path, own_f)) is not None:
                done(total)
                return found
            remove_partial_files(self.folder, key)
            kept = ["x_t", "eps_c", "eps_null"] + (["eps_f"] if description["f"] and not own_f else [])
            parts = []
            for i, seeds in enumerate(noise_seeds(self.seed, self.walks).split(self.chunk)):
                part = self.folder / f"{key}.part{i}-of-{self.chunk}.safetensors"
                stops = self.stops(part, own_f)
                if stops is None:
                    made = roll_out(denoisers, concept, template, seeds, done)
                    self.keep(part, dict(zip(Examples._fields, made, strict=True)), description)
                    stops = self.stops(part, own_f)
                else:
                    done(len(seeds) * len(denoisers.sampler))
                parts.append(stops._asdict())
            with torch.autocast("cpu", enabled=False):  # it concatenates no float16
                whole = {name: torch.cat([part[name] for part in parts]) for name in kept}
            self.keep(path, whole, description)
            for part in self.folder.glob(f"{key}.part*.safetensors"):
                part.unlink()
            found = self.stops(path, own_f)  # mapped into memory: it stays, also where another process removes the file
            self.trim(key, [path])
        return found
