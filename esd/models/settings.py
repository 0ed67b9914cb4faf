"""What a pipeline's settings say that nothing here understands: refused by name, of a folder before a weight is read.

Only the parts' own configurations are read. Whatever passes is applied as diffusers applies it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from esd import UserError
from esd.files import read_json

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# Schedulers whose configurations say the same things in the same words, so that DDIM and Euler take them: diffusers' own list
# (KarrasDiffusionSchedulers) without EDM's, whose noise levels are others. Nor LCM's or flow's: their models are others.
SCHEDULERS = (
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler",
    "DPMSolverSDEScheduler",
)  # fmt: skip
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
UNETS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
OTHER_INPUTS = {9: "an inpainting model (its U-Net is given a mask and a picture too)", 8: "an instruct (image to image) model"}


def check_settings(folder: Path, kind: str, index: dict) -> None:
    """Raises UserError for the first setting that is not understood. Of parts that are not there, nothing is said.

    kind: the pipeline's class. index: model_index.json, for the parts' classes.
    """

    def of(part: str, file: str = "config.json") -> dict | None:
        path = folder / part / file
        return read_json(path) if path.is_file() else None

    scheduler, vae = of("scheduler", "scheduler_config.json"), of("vae")
    denoiser = of("unet" if kind in UNETS else "transformer")
    name = (index.get("scheduler") or [None, None])[1]
    problem = None
    if scheduler is not None:
        problem = unknown_scheduler(name or scheduler.get("_class_name"), scheduler, kind)
    if vae is not None:
        problem = problem or unknown_vae((index.get("vae") or [None, "AutoencoderKL"])[1], vae, kind)
    if denoiser is not None and vae is not None:
        problem = problem or unknown_denoiser(denoiser, vae, kind)
    if problem:
        raise UserError(f"{folder} cannot be used: {problem}")


def check_loaded(pipeline: DiffusionPipeline, kind: str) -> None:
    """The same of a pipeline that is loaded. Its VAE may be of any class: nothing is drawn with it unless it is asked.

    kind: the class of FAMILIES (esd/models/folders.py) that it is, or is made from.
    """
    scheduler, denoiser = pipeline.scheduler, pipeline.unet if kind in UNETS else pipeline.transformer
    problem = unknown_scheduler(type(scheduler).__name__, dict(scheduler.config), kind)
    if problem := problem or unknown_denoiser(dict(denoiser.config), dict(pipeline.vae.config), kind):
        raise UserError(f"the {type(pipeline).__name__} cannot be used: {problem}")


def unknown_scheduler(name: str | None, scheduler: dict, kind: str) -> str | None:
    problem = (unknown_schedule if kind in UNETS else unknown_flow)(name, scheduler)
    return problem and f"its scheduler is {problem}"


def unknown_denoiser(denoiser: dict, vae: dict, kind: str) -> str | None:
    return (unknown_unet if kind in UNETS else unknown_transformer)(denoiser, vae, kind)


def unknown_schedule(name: str | None, scheduler: dict) -> str | None:
    """Of Stable Diffusion 1, 2 and XL."""
    if name not in SCHEDULERS:
        return f"{name}, which is not understood for this kind of model: give it one of {', '.join(SCHEDULERS[:5])}, …"
    if (prediction := scheduler.get("prediction_type", "epsilon")) not in ("epsilon", "v_prediction"):
        return f"for a model that predicts {prediction}, and only epsilon and v_prediction are understood"
    if scheduler.get("use_flow_sigmas"):
        return "told to use_flow_sigmas, which these models are not trained for"
    betas = scheduler.get("beta_schedule", "linear")
    if not scheduler.get("trained_betas") and betas not in BETA_SCHEDULES:
        return f"told beta_schedule={betas}, and only {', '.join(BETA_SCHEDULES)} are understood"
    return None


def unknown_flow(name: str | None, scheduler: dict) -> str | None:
    """Of Stable Diffusion 3 and FLUX."""
    if name not in FLOW_SCHEDULERS:
        return f"{name}, which is not understood for this kind of model: give it {' or '.join(FLOW_SCHEDULERS)}"
    for option in ("stochastic_sampling", "invert_sigmas"):
        if scheduler.get(option):
            return f"told {option}, which is not understood"
    return None


def unknown_vae(name: str, vae: dict, kind: str) -> str | None:
    if name != "AutoencoderKL":
        return f"its VAE is {name}, and only AutoencoderKL is understood"
    shifted = vae.get("latents_mean") is not None or vae.get("latents_std") is not None
    if shifted and kind != "StableDiffusionXLPipeline":
        return "its VAE has latents_mean and latents_std, which diffusers applies to Stable Diffusion XL's latents alone"
    return None


def unknown_unet(unet: dict, vae: dict, kind: str) -> str | None:
    latent = vae.get("latent_channels", 4)
    taken, given = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if taken != latent:
        other = OTHER_INPUTS.get(taken, "no text-to-image model")
        return f"its U-Net takes {taken} channels where the VAE's latents have {latent}: it is {other}"
    if given != latent:
        return f"its U-Net predicts {given} channels where the VAE's latents have {latent}"
    if unet.get("class_embed_type") or unet.get("num_class_embeds"):
        return "its U-Net asks for class labels (as an upscaler does)"
    if unet.get("encoder_hid_dim_type"):
        return f"its U-Net is conditioned by {unet['encoder_hid_dim_type']}, and not by text alone"
    if unet.get("time_cond_proj_dim"):
        return "its U-Net was distilled to be told its guidance (a latent consistency model): give the model it was made from"
    wanted = "text_time" if kind == "StableDiffusionXLPipeline" else None
    if (added := unet.get("addition_embed_type")) != wanted:
        return f"its U-Net has addition_embed_type={added}, where a {kind}'s has {wanted}"
    return unknown_size("unet", unet)


def unknown_transformer(transformer: dict, vae: dict, kind: str) -> str | None:
    latent = vae.get("latent_channels", 4)
    flux = kind == "FluxPipeline"  # packs patches of 2×2
    taken, wanted = transformer.get("in_channels", 64 if flux else 16), latent * (4 if flux else 1)
    if taken != wanted:
        what = (
            "it is given a picture beside the noise (Fill, Depth, Canny, Kontext, …)" if taken > wanted else "another model's"
        )
        return f"its transformer takes {taken} channels where the VAE's latents have {wanted}: {what}"
    if flux:
        factor, size = 2 ** (len(vae.get("block_out_channels", [0])) - 1), vae.get("sample_size", 32)
        if said := unknown_size("vae", vae):
            return said
        if any(side % (2 * factor) for side in sides(size)):
            return f"its VAE's sample_size={size} is no multiple of {2 * factor}, which packing its latents needs"
        return None
    if said := unknown_size("transformer", {"sample_size": 128} | transformer):
        return said
    patch, most = transformer.get("patch_size", 2), transformer.get("pos_embed_max_size", 96)
    size = transformer.get("sample_size", 128)
    if any(side % patch for side in sides(size)):
        return f"its transformer's sample_size={size} is no multiple of its patch_size={patch}"
    if any(side // patch > most for side in sides(size)):
        return f"its transformer's sample_size={size} is more than its {most} positions of {patch} hold"
    return None


def unknown_size(part: str, config: dict) -> str | None:
    size = config.get("sample_size")
    if all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides(size)) and size:
        return None
    return f"its {part}/config.json has sample_size={size}, and must say the size that it was trained at, for example 64"


def sides(sample_size: object) -> tuple:
    """A configuration's sample_size as (height, width): of a square it is one number."""
    return tuple(sample_size) if isinstance(sample_size, list | tuple) and len(sample_size) == 2 else (sample_size, sample_size)
