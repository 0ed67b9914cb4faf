"""The three parts of the embedded model, each made from the art that ships: autoencoder, judge, U-Net with its text encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from omegaconf import DictConfig
from torch import Tensor

from esd import UserError
from esd.emoji import art, unet, vae, words
from esd.emoji import judge as judges
from esd.emoji.fitting import Pictures, fit


@dataclass
class Drawings:
    """pictures: premultiplied RGBA, objects (N, 4, 128, 128) or others (N, 4, 64, 64); noun, style: the words of each;
    images: augmentations of each, (N, V, 3, 64, 64) uint8."""

    pictures: Tensor
    noun: list[str]
    style: list[str]
    images: Tensor | None = None

    def __len__(self) -> int:
        return len(self.noun)

    def only(self, wanted: list[bool]) -> Drawings:
        keep = torch.tensor(wanted)
        noun, style = ([word for word, kept in zip(of, wanted, strict=True) if kept] for of in (self.noun, self.style))
        return Drawings(self.pictures[keep], noun, style, None if self.images is None else self.images[keep])


def drawings(one_in: int = 1) -> tuple[Drawings, Drawings]:
    """The objects, and the other emoji, in every style: of each every so many-th drawing."""
    styles = list(words.STYLES)
    both = []
    for (pictures, name, style), names in ((art.objects(), list(words.OBJECTS)), (art.others(), art.other_names())):
        every = Drawings(pictures, [names[i] for i in name.tolist()], [styles[i] for i in style.tolist()])
        both.append(every.only([i % one_in == 0 for i in range(len(every))]))
    return both[0], both[1]


def make_autoencoder(objects: Drawings, others: Drawings, cfg: DictConfig, device: torch.device, out: Path) -> AutoencoderKL:
    """From the objects that are not studied and the other emoji; the twin takes it over."""
    if not (out / "model/vae").exists():
        shown = objects.only([noun not in words.STUDIED for noun in objects.noun])
        module = vae.VAETraining(vae.new_vae(), cfg.pretrain.vae.lr, cfg.pretrain.vae.steps)
        everything = torch.cat([shown.images.flatten(0, 1), others.images.flatten(0, 1)])
        data = Pictures(everything, batch=cfg.pretrain.vae.batch, seed=cfg.seed)
        fit(module, data, cfg.pretrain.vae.steps, cfg, out / "checkpoints/vae")
        vae.whiten(module.vae.eval().to(device), shown.images.flatten(0, 1)[::7])
        module.vae.half().save_pretrained(out / "model/vae")
    return AutoencoderKL.from_pretrained(out / "model/vae").float().to(device).eval().requires_grad_(False)


def make_judge(
    objects: Drawings, others: Drawings, latents: Tensor, autoencoder: AutoencoderKL, cfg: DictConfig,
    generator: torch.Generator, device: torch.device, out: Path,
) -> None:  # fmt: skip
    """From the objects, their reconstructions, the other emoji but every fourth, and pictures of nothing."""
    if (out / "judge/judge.safetensors").exists():
        return
    nouns, styles, names = list(words.OBJECTS), list(words.STYLES), art.other_names()
    noun, style = (
        torch.tensor([nouns.index(it) for it in objects.noun]),
        torch.tensor([styles.index(it) for it in objects.style]),
    )
    times = max(1, cfg.pretrain.variants // 4)
    mixed = objects.images[:, 0].repeat(times, 1, 1, 1), latents[:, 0].float().repeat(times, 1, 1, 1)
    broken = judges.broken_pictures(*mixed, autoencoder, generator)
    redrawn = vae.decode(autoencoder, latents[:, :times].flatten(0, 1).float())  # it must know objects by these too
    strong = art.variants(objects.pictures, max(1, cfg.pretrain.variants // 2), generator, 1.5, device)
    shown = others.only([names.index(name) % 4 != 3 for name in others.noun])  # every fourth is kept for its test
    each = shown.images.shape[1]

    def repeated(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n = len(images) // len(objects)
        return images, noun.repeat_interleave(n), style.repeat_interleave(n)

    something_else = torch.full((len(shown) * each,), judges.SOMETHING_ELSE)
    parts = [  # pictures, object, style, share of a batch
        (*repeated(objects.images.flatten(0, 1)), 0.15),
        (*repeated(strong.flatten(0, 1)), 0.2),
        (*repeated(redrawn), 0.2),
        (shown.images.flatten(0, 1), something_else,
         torch.tensor([styles.index(it) for it in shown.style]).repeat_interleave(each), 0.35),
        (broken, torch.full((len(broken),), judges.SOMETHING_ELSE), torch.full((len(broken),), -1), 0.1),
    ]  # fmt: skip
    module = judges.JudgeTraining(judges.Judge(), cfg.pretrain.judge.lr, cfg.pretrain.judge.steps)
    data = Pictures(*map(torch.cat, zip(*[part[:3] for part in parts], strict=True)), batch=cfg.pretrain.judge.batch,
                    seed=cfg.seed, shares=[(len(part[0]), part[3]) for part in parts])  # fmt: skip
    fit(module, data, cfg.pretrain.judge.steps, cfg, out / "checkpoints/judge")
    unseen = others.only([names.index(name) % 4 == 3 for name in others.noun]).pictures
    judge = module.judge.cpu().eval()
    record = judges.judge_quality(judge, objects.pictures, noun, style, unseen, min(8, cfg.pretrain.variants), generator)
    judges.save_judge(judge, out / "judge", record)
    print("judge:", ", ".join(f"{key} {value}" for key, value in record.items()))


def make_unet(
    objects: Drawings, others: Drawings, latents: tuple[Tensor, Tensor], autoencoder: AutoencoderKL, cfg: DictConfig, out: Path
) -> dict[str, float]:
    """From the captioned latents of the pairs that are not held out and of the other emoji. Returns each part's seconds."""
    tokenizer = unet.new_tokenizer(out / "tokenizer")
    text_encoder, denoiser = unet.new_text_encoder(tokenizer), unet.new_unet()
    if cfg.init:  # go on from a finished model, with a new schedule
        before = StableDiffusionPipeline.from_pretrained(cfg.init)
        if before.tokenizer.get_vocab() != tokenizer.get_vocab():
            raise UserError(f"init={cfg.init}: its tokenizer knows other words than today's esd/emoji/words.py")
        text_encoder.load_state_dict(before.text_encoder.float().state_dict())
        denoiser.load_state_dict(before.unet.float().state_dict())
    captions, seconds = unet.Captions(tokenizer), {}
    pairs = [list(zip(of.noun, of.style, strict=True)) for of in (objects, others)]
    for part in ("unet", "finish"):  # on all alike, then on what is asked for
        phase = cfg.pretrain[part]
        data = unet.Draws(*pairs, latents[0].shape[1], captions, phase.batch, phase.others, cfg.seed)
        module = unet.UNetTraining(denoiser, text_encoder, torch.cat(latents), captions.tokens, phase.lr, phase.steps, cfg.seed)
        if phase.steps:
            seconds[part] = round(fit(module, data, phase.steps, cfg, out / "checkpoints" / part, ema=phase.ema), 1)
    denoiser.set_default_attn_processor()
    pipeline = StableDiffusionPipeline(
        autoencoder.cpu(), text_encoder.cpu().eval(), tokenizer, denoiser.cpu().eval(), unet.new_scheduler(), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    denoiser.half(), autoencoder.half()  # 16 bits on disk; the text encoder, which transformers loads as it is kept, in 32
    pipeline.save_pretrained(out / "model")
    return seconds
