"""The configured model (conf/model): `_target_` names what loads it, esd.models.load or a function of one's own with the
same arguments, (path, name, dtype), that returns an esd.models.family.Model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydra.utils import get_method
from omegaconf import DictConfig

from esd import UserError
from esd.command.checks import option_errors
from esd.models import folder_of
from esd.models.prediction import require_known

if TYPE_CHECKING:
    import torch
    from torch import nn

    from esd.models.family import Model

SHIPPED = "esd.models.load"
ACCELERATORS = ("auto", "cpu", "gpu")


def device_of(accelerator: str) -> torch.device:
    """Raises UserError where there is no such thing here."""
    import torch

    there = torch.cuda.is_available()
    if accelerator == "gpu" and not there:
        raise UserError("accelerator=gpu: torch finds none on this machine: give cpu, or auto")
    return torch.device("cuda" if there and accelerator != "cpu" else "cpu")


def check_model(cfg: DictConfig) -> None:
    """Raises UserError for a path that is no model, before anything heavy is imported. What a loader of one's own takes, it
    says itself."""
    if cfg.get("_target_", SHIPPED) == SHIPPED:
        require_known(cfg.get("prediction", "auto"))
        folder_of(cfg.path)


def denoiser_without_weights(cfg: DictConfig) -> nn.Module | None:
    """cfg: the group `model`. None where only the weights tell: of a single file, or by a loader of one's own."""
    from esd import models

    return models.denoiser_without_weights(cfg.path) if cfg.get("_target_", SHIPPED) == SHIPPED else None


def load_model(cfg: DictConfig, dtype: str | None = None) -> Model:
    """cfg: the group `model`; dtype: other than the configured one."""
    with option_errors("model"):
        load = get_method(cfg.get("_target_", SHIPPED))
    asked = cfg.get("prediction", "auto")
    return load(cfg.path, cfg.name, dtype or cfg.dtype, **({} if asked == "auto" else {"predicts": asked}))
