"""What a U-Net predicts, ε or v (Salimans and Ho 2022, arXiv 2202.00512): as its files say, or its user.

A folder says so in its scheduler's configuration. A checkpoint in one file has no configuration, and says so by a key, by
metadata, or by the .yaml beside it, if at all. "Zero terminal SNR": its schedule ends in pure noise (Lin et al. 2023,
arXiv 2305.08891), from which only v can be told apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from esd import UserError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

TYPES = {"epsilon": "epsilon", "v": "v_prediction"}  # model.prediction → diffusers' prediction_type
ARCHITECTURES = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v_prediction"}  # of modelspec
EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")  # keys of models with other noise levels


class Prediction(NamedTuple):
    """kind: epsilon, v_prediction, or None where nothing says. zero_snr: whether the schedule ends in pure noise."""

    kind: str | None
    zero_snr: bool = False


def require_known(asked: str) -> None:
    """Raises UserError for a model.prediction that is none."""
    if asked not in ("auto", *TYPES):
        raise UserError(f"model.prediction={asked} is unknown: auto, {', '.join(TYPES)}")


def of_checkpoint(path: Path, names: Iterable[str], metadata: dict[str, str]) -> Prediction:
    """What a checkpoint in one file says of itself. Raises UserError for EDM's models, which are sampled otherwise."""
    names = set(names)
    if edm := sorted(names.intersection(EDM)):
        raise UserError(f"model.path={path} is an EDM model (it has {edm[0]}), whose noise levels are not understood")
    if "v_pred" in names:  # NoobAI's and its relatives' keys
        return Prediction("v_prediction", "ztsnr" in names)
    spoken = metadata.get("modelspec.prediction_type", "").lower()
    if spoken in TYPES or spoken == "v_prediction":
        return Prediction(TYPES.get(spoken, spoken))
    if kind := ARCHITECTURES.get(metadata.get("modelspec.architecture", "").lower()):
        return Prediction(kind)
    config = path.with_suffix(".yaml")  # A1111's way
    if config.is_file():
        v = re.search(r"""parameterization:\s*["']?v\b""", config.read_text(encoding="utf-8", errors="replace"))
        return Prediction("v_prediction" if v else "epsilon")
    return Prediction(None)


def settle(pipeline: DiffusionPipeline, prediction: Prediction) -> None:
    """Let the pipeline's scheduler say what the U-Net predicts. Raises UserError for a pipeline without a U-Net."""
    if prediction.kind is None:
        return
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline

    if not hasattr(pipeline, "unet"):
        raise UserError("model.prediction is for Stable Diffusion 1, 2 and XL: a flow predicts its velocity; leave it out")
    kind, options = type(pipeline.scheduler), {"prediction_type": prediction.kind}
    if prediction.zero_snr:  # which not every scheduler knows, and which only "trailing" time steps begin at
        kind = EulerDiscreteScheduler if isinstance(pipeline, StableDiffusionXLPipeline) else DDIMScheduler
        options |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    pipeline.register_modules(scheduler=kind.from_config(pipeline.scheduler.config, **options))


def spoken_of(scheduler) -> str:
    """In words, of the scheduler that is sampled with."""
    kind = {"epsilon": "ε", "v_prediction": "v"}.get(scheduler.config.get("prediction_type"), "the flow's velocity")
    return kind + (" with zero terminal SNR" if scheduler.config.get("rescale_betas_zero_snr") else "")
