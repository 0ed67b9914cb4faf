"""Every family's real pipeline with small random weights, tokenizers included, built without a network."""

from __future__ import annotations

import string

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)  # fmt: skip
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)  # fmt: skip

LENGTH = 12  # of a tokenised prompt
WIDTH = 16  # of a CLIP
LETTERS = string.ascii_lowercase


def clip_tokenizer() -> CLIPTokenizer:
    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=LENGTH)


def t5_tokenizer() -> T5TokenizerFast:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS, *("▁" + letter for letter in LETTERS)]
    return T5TokenizerFast(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)


def clip(projected: bool = False, activation: str = "quick_gelu", width: int = WIDTH):
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, projection_dim=WIDTH, hidden_act=activation, bos_token_id=52, eos_token_id=53,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(width: int):
    return T5EncoderModel(T5Config(vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def vae(**options) -> AutoencoderKL:
    common = {"latent_channels": 4, "norm_num_groups": 4, "sample_size": 8, "block_out_channels": (8,)}
    return AutoencoderKL(**{**common, **options})


def unet(**options) -> UNet2DConditionModel:
    common = {
        "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "cross_attention_dim": WIDTH,
        "attention_head_dim": 2, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "norm_num_groups": 8,
    }  # fmt: skip
    return UNet2DConditionModel(**{**common, **options})


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def sd1():
    scheduler = PNDMScheduler(skip_prk_steps=True, **BETAS)  # what Stable Diffusion 1 ships with
    parts = (vae(), clip(), clip_tokenizer(), unet(), scheduler)
    return StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False)


def sd21():
    """v-prediction and projections by Linear."""
    scheduler = DDIMScheduler(prediction_type="v_prediction", set_alpha_to_one=False, clip_sample=False, **BETAS)
    parts = (vae(), clip(activation="gelu"), clip_tokenizer(), unet(use_linear_projection=True), scheduler)
    return StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False)


def sdxl():
    """Two depths of transformer, a pooled embedding, six sizes."""
    wide = unet(
        cross_attention_dim=WIDTH + 24, use_linear_projection=True, transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(timestep_spacing="leading", **BETAS)
    parts = (vae(), clip(), clip(True, "gelu", 24), clip_tokenizer(), clip_tokenizer(), wide, scheduler)
    return StableDiffusionXLPipeline(*parts, add_watermarker=False)


def sd3():
    """A block with the second attention of 3.5; T5 wider than both CLIPs together."""
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=2 * WIDTH, pos_embed_max_size=8,
        dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(shift=3.0), vae(shift_factor=0.06), clip(True), clip_tokenizer(),
        clip(True, "gelu"), clip_tokenizer(), t5(40), t5_tokenizer(),
    )  # fmt: skip


def flux(told: bool = True):
    """Guided by a number it is told, as dev is."""
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=WIDTH, guidance_embeds=told, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    coder = vae(shift_factor=0.1, block_out_channels=(8, 8), sample_size=16, down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    return FluxPipeline(scheduler, coder, clip(), clip_tokenizer(), t5(32), t5_tokenizer(), transformer)


PIPELINES = {"sd14": sd1, "sd15": sd1, "sd21": sd21, "sdxl": sdxl, "sd3": sd3, "flux": flux}


def built(family: str):
    """The family's pipeline, the same weights every time."""
    torch.manual_seed(sum(map(ord, family)))
    return PIPELINES[family]()
