"""All that an edit depends on, for its header."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from esd.command.words import command_line
from esd.erasing.concepts import Concept
from esd.train.build import rank_and_alpha


def record_of(cfg: DictConfig, concepts: list[Concept], base_hash: str) -> dict:
    """All that an edit depends on, for its header; nothing else, so that a run that was interrupted leaves the same file."""
    packages = ("torch", "diffusers", "transformers", "pytorch-lightning", "erased-diffusion")
    chosen = OmegaConf.to_container(cfg, resolve=True)
    return {
        "base": cfg.model.name if cfg.model.path is None else str(cfg.model.path),
        "base_hash": base_hash,
        "concept": [concept.text for concept in concepts],
        "erase_from": [concept.erase_from for concept in concepts],
        "templates": list(cfg.templates),
        "eta": cfg.eta,
        "layers": cfg.layers.name,
        "lora": dict(zip(("rank", "alpha"), rank_and_alpha(cfg), strict=True)) if cfg.lora.rank else None,
        "trajectories": chosen["trajectories"],
        "guidance": cfg.guidance,
        "sampling_steps": cfg.sampling_steps,
        "steps": cfg.steps,
        "batch": cfg.batch,
        "lr": cfg.lr,
        "seed": cfg.seed,
        "preserve": chosen["preserve"],
        "preserve_weight": cfg.preserve_weight,
        "preserve_batch": cfg.preserve_batch or cfg.batch,
        "optimizer": chosen["optimizer"],
        "schedule": chosen["schedule"],
        "precision": str(chosen["trainer"]["precision"]),
        "dtype": cfg.model.dtype,
        "quantize": cfg.model.quantize,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "command": command_line("esd.train", *without_resume(HydraConfig.get().overrides.task)),
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in packages}},
    }


def without_resume(task: Iterable[str]) -> list[str]:
    """What a run was asked for, without what it goes on from."""
    return [option for option in task if not option.startswith("resume=")]


def package_version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # run from a checkout that was not installed
        return "not installed"


@contextmanager
def collect_nondeterministic() -> Iterator[list[str]]:
    """The operations that torch says it has no deterministic algorithm for, collected; other warnings are shown as ever."""
    found: list[str] = []
    shown = warnings.showwarning

    def show(message, *args, **kwargs) -> None:
        text = str(message)
        if "does not have a deterministic implementation" in text:
            found.append(text.split()[0])
        else:
            shown(message, *args, **kwargs)

    warnings.showwarning = show
    try:
        yield found
    finally:
        warnings.showwarning = shown
