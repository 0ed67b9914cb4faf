"""The original key layout of Stable Diffusion 1, 2 and XL: what A1111 and ComfyUI load, in one file.

diffusers' loader reads this layout; nothing of it writes it. The U-Net's names are in models/original_names.py.
"""

from __future__ import annotations

import re

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn

from esd import UserError
from esd.models.original_names import unet_names

VAE = [  # patterns in turn; attention is where it is not for convolutions of 1×1
    (r"^(en|de)coder\.mid_block\.resnets\.0\.", r"\1coder.mid.block_1."),
    (r"^(en|de)coder\.mid_block\.resnets\.1\.", r"\1coder.mid.block_2."),
    (r"^(en|de)coder\.mid_block\.attentions\.0\.", r"\1coder.mid.attn_1."),
    (r"\.attn_1\.group_norm\.", ".attn_1.norm."),
    (r"\.attn_1\.to_([qkv])\.", r".attn_1.\1."),
    (r"\.attn_1\.to_out\.0\.", ".attn_1.proj_out."),
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"encoder.down.\1.block.\2."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.", r"decoder.up.\1.block.\2."),
    (r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0\.", r"decoder.up.\1.upsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
]
OPEN_CLIP = [
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
]


def original(pipe: DiffusionPipeline, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The whole pipeline's weights under their original names, and the keys that say what they predict.

    dtype: of all of them; nothing: as they are. Raises UserError for another family than SD 1, 2 and XL.
    """
    if not isinstance(pipe, StableDiffusionPipeline | StableDiffusionXLPipeline):
        raise UserError("to=single-file is for Stable Diffusion 1, 2 and XL: for SD3 and FLUX use to=diffusers or to=lora")
    names, config = unet_names(pipe.unet), pipe.scheduler.config
    state = {f"model.diffusion_model.{names[name]}": tensor for name, tensor in pipe.unet.state_dict().items()}
    state |= {f"first_stage_model.{name}": tensor for name, tensor in vae_state(pipe.vae).items()}
    if isinstance(pipe, StableDiffusionXLPipeline):
        state |= clip_state(pipe.text_encoder, "conditioner.embedders.0.transformer.text_model.")
        state |= open_clip_state(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    elif pipe.text_encoder.config.hidden_act == "quick_gelu":  # OpenAI's CLIP, of Stable Diffusion 1
        state |= clip_state(pipe.text_encoder, "cond_stage_model.transformer.text_model.")
    else:
        state |= open_clip_state(pipe.text_encoder, "cond_stage_model.model.")
    state = {name: tensor.detach().cpu().to(dtype or tensor.dtype).contiguous() for name, tensor in state.items()}
    said = {"v_pred": config.get("prediction_type") == "v_prediction", "ztsnr": config.get("rescale_betas_zero_snr")}
    return state | {key: torch.empty(0) for key, true in said.items() if true}  # ComfyUI and A1111 look for the keys alone


def vae_state(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The VAE's tensors under their original names, which count the decoder's levels from the picture."""
    last, state = len(vae.config.block_out_channels) - 1, {}
    for name, tensor in vae.state_dict().items():
        name = re.sub(r"^decoder\.up_blocks\.(\d+)\.", lambda m: f"decoder.up_blocks.{last - int(m[1])}.", name)
        for pattern, original_name in VAE:
            name = re.sub(pattern, original_name, name)
        attention = re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", name)
        state[name] = tensor[:, :, None, None] if attention else tensor
    return state


def clip_state(encoder: nn.Module, prefix: str) -> dict[str, Tensor]:
    """OpenAI's CLIP keeps transformers' names."""
    return {prefix + name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}


def open_clip_state(encoder: nn.Module, prefix: str) -> dict[str, Tensor]:
    """OpenCLIP joins queries, keys and values, and turns the projection around."""
    own = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
    state = {}
    for name, tensor in own.items():
        if match := re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)$", name):
            joined = torch.cat([own[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
            state[f"{prefix}transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = joined
        elif name == "text_projection.weight":
            state[f"{prefix}text_projection"] = tensor.T
        elif not re.search(r"\.self_attn\.[kv]_proj\.|position_ids", name):
            for pattern, original_name in OPEN_CLIP:
                name = re.sub(pattern, original_name, name)
            state[prefix + name] = tensor
    return state
