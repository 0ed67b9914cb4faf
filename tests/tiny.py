"""A tiny model of the real classes, and what a training step on it needs."""

from __future__ import annotations

from pathlib import Path

from esd.erasing.layers import LayerRule, select_parameters, student_of

ROOT = Path(__file__).parent.parent


def tiny_pipeline(folder: Path) -> Path:
    """A whole StableDiffusionPipeline with small random weights, on disk."""
    from esd.models.quiet import silence_libraries

    silence_libraries()
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from esd.emoji.unet import TOKENS, new_scheduler, new_tokenizer

    torch.manual_seed(0)
    tokenizer = new_tokenizer(folder / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=TOKENS, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=16, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4, sample_size=8)
    pipeline = StableDiffusionPipeline(vae, text, tokenizer, unet, new_scheduler(), None, None, requires_safety_checker=False)
    pipeline.save_pretrained(folder / "model")
    return folder / "model"


def parts(model, concepts, *, source="student", walker="frozen", templates=("{}",), include=(r"\.attn2\.",), steps=8, lr=1e-3):
    """(module, teacher, student, sampler, prompts) with a stub of the trainer's part that a bare step touches.

    source: student, pool or an object."""
    import torch

    from esd.erasing.erasure import Erasure
    from esd.erasing.prompts import PromptTable
    from esd.erasing.trajectories import Denoisers, Pool, StudentWalks

    trained = select_parameters(model.denoiser, LayerRule("test", include=list(include)))
    student = student_of(model.denoiser, trained)
    sampler = model.sampler(steps)
    prompts = PromptTable(model, list(concepts), list(templates))
    shared = (model, sampler, prompts, 3.0, model.denoiser, student)
    sources = {"student": StudentWalks, "pool": lambda: Pool(walker)}
    trajectories = (sources[source]() if isinstance(source, str) else source).begin(Denoisers(*shared))
    module = Erasure(
        model, student, trained, prompts, sampler, trajectories,
        lambda p: torch.optim.Adam(p, lr), lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0),
    )  # fmt: skip
    return module, model.denoiser, student, sampler, prompts


def trained_for(module, draws, steps, **kwargs):
    """A real Lightning run of so many steps; returns the trainer."""
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    trainer = pl.Trainer(
        max_steps=steps, limit_train_batches=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, **kwargs,
    )  # fmt: skip
    trainer.fit(module, DataLoader(draws, batch_size=None))
    return trainer
