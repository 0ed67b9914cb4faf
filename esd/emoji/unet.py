"""The embedded model's tokenizer, text encoder and U-Net, and their joint training on cached latents."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from esd.emoji import words
from esd.emoji.art import captioned_others
from esd.emoji.fitting import rank, steps_from

WIDTH = 128  # of the text embeddings
TOKENS = 16  # the longest prompt, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def new_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges make one token of each word that is taught; written to `folder`."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.-'"
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    rank: dict[tuple[str, str], int] = {}

    def split(word: str) -> list[str]:  # byte-pair encoding: the earliest merge first
        parts = [*word[:-1], word[-1] + "</w>"]
        while known := [pair for pair in zip(parts, parts[1:], strict=False) if pair in rank]:
            best = min(known, key=rank.__getitem__)
            at = next(i for i in range(len(parts)) if (parts[i], parts[i + 1]) == best)
            parts[at : at + 2] = ["".join(best)]
        return parts

    for word in [*words.vocabulary(), *captioned_others()]:
        while len(parts := split(word)) > 1:  # a later merge never changes how an earlier word is split
            rank[parts[0], parts[1]] = len(merges)
            merges.append((parts[0], parts[1]))
            if (joined := parts[0] + parts[1]) not in vocabulary:
                vocabulary.append(joined)
    ids = {token: i for i, token in enumerate([*vocabulary, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": TOKENS,
                **{"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END},
            }
        )
    )
    return CLIPTokenizer.from_pretrained(folder)


class Captions:
    """The phrases of training, tokenised once, and how one is drawn for a picture.

    Three times in four a thing is called by its name, else in other words or in another language.
    """

    def __init__(self, tokenizer: CLIPTokenizer):
        self.index: dict[str, int] = {"": 0}
        for name in [*words.OBJECTS, *filter(None, words.CATEGORIES), *captioned_others()]:
            for noun in words.ways_to_say(name):
                styles = [way for style in words.STYLES for way in words.ways_to_say(style)] if noun == name else words.STYLES
                for phrase in words.object_phrases(noun):
                    self.index.setdefault(phrase, len(self.index))
                for style in styles:
                    for phrase in [*words.styled_phrases(noun, style), *words.style_phrases(style)]:
                        self.index.setdefault(phrase, len(self.index))
        self.tokens = tokenizer(list(self.index), padding="max_length", return_tensors="pt").input_ids  # (P, 16)

    def draw(self, noun: str, style: str, rng: random.Random) -> int:
        """An object's caption: one in ten is dropped (for guidance), one in eight names the style alone."""
        u = rng.random()
        if u < 0.10:
            return 0
        if u < 0.22:
            return self.index[rng.choice(words.style_phrases(self._way(style, rng)))]
        return self.draw_named(noun, style, rng)

    def draw_named(self, noun: str, style: str, rng: random.Random) -> int:
        """A caption that names the object or the category, with or without the style."""
        if rng.random() < 0.42:
            return self.index[rng.choice(words.object_phrases(self._way(noun, rng)))]
        way = self._way(noun, rng)
        called = self._way(style, rng) if way == noun else style
        return self.index[rng.choices(words.styled_phrases(way, called), (3, 1, 1))[0]]

    @staticmethod
    def _way(name: str, rng: random.Random) -> str:
        return name if rng.random() < 0.75 else rng.choice(words.ways_to_say(name))


class Draws(IterableDataset):
    """Batches of (picture, variant, caption) indices without end, each a pure function of (seed, step).

    objects, others: the (noun, style) of each picture that may be drawn, the objects' before the other emoji's, which are
    the share `others` of a batch: nobody asks for them, but they show what a style is apart from the objects. A further 15 %
    of a batch are drawn for a category: the category first, so that the small ones ("weapon": four objects) are learnt as well
    as the large, and of a large one only what it brings to mind first (`words.typical_objects`): twenty foods under one word
    would take far more training to come out as one of them and not as a blend.
    """

    def __init__(
        self, objects: list[tuple[str, str]], others: list[tuple[str, str]], variants: int, captions: Captions, batch: int,
        share: float, seed: int,
    ):  # fmt: skip
        self.pictures, self.objects, self.variants = [*objects, *others], len(objects), variants
        self.captions, self.batch, self.share, self.seed, self.start = captions, batch, share, seed, 0
        self.by_category: dict[str, list[int]] = {}
        for i, (noun, _) in enumerate(objects):
            category = words.CATEGORY_OF.get(noun)
            if category and noun in words.typical_objects(category):
                self.by_category.setdefault(category, []).append(i)

    def draw(self, rng: random.Random) -> tuple[int, int, int]:
        variant, u = rng.randrange(self.variants), rng.random()
        if u < 0.15:
            category = rng.choice(list(self.by_category))
            i = rng.choice(self.by_category[category])
            return i, variant, self.captions.draw_named(category, self.pictures[i][1], rng)
        i = rng.randrange(self.objects, len(self.pictures)) if u < 0.15 + self.share else rng.randrange(self.objects)
        return i, variant, self.captions.draw(*self.pictures[i], rng)

    def __iter__(self) -> Iterator[Tensor]:
        for step in steps_from(self.start):
            rng = random.Random(f"{self.seed}/{step}/{rank()}")
            yield torch.tensor([self.draw(rng) for _ in range(self.batch)])  # (B, 3)


class UNetTraining(pl.LightningModule):
    """ε-prediction with min-SNR-5 weights (Hang et al. 2023, arXiv 2303.09556) and time steps stratified in a batch.

    latents: of every picture that is drawn, (pictures, variants, 4, 16, 16); tokens: of every caption, (captions, 16).
    """

    def __init__(
        self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, latents: Tensor, tokens: Tensor, lr: float, steps: int,
        seed: int,
    ):  # fmt: skip
        super().__init__()
        self.unet, self.text_encoder, self.lr, self.steps, self.seed = unet, text_encoder, lr, steps, seed
        self.latents, self.tokens, self.alphas_cumprod = latents, tokens, new_scheduler().alphas_cumprod  # no state: no buffers

    def on_fit_start(self) -> None:
        for name in ("latents", "tokens", "alphas_cumprod"):
            setattr(self, name, getattr(self, name).to(self.device))
        if self.device.type == "cpu":
            self.unet.set_attn_processor(AttnProcessor())  # there the fused one takes a quarter of a step's time
        else:
            self.unet.compile()

    def training_step(self, drawn: Tensor, _: int) -> Tensor:
        picture, variant, caption = drawn.T
        x0 = self.latents[picture, variant].float()  # (B, 4, 16, 16)
        n, device = len(x0), self.device
        generator = torch.Generator(device).manual_seed((self.seed * 1_000_003 + self.global_step) * 64 + rank())
        noise = torch.randn(x0.shape, generator=generator, device=device)
        u = (torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)) / n
        t = (u * 1000).long().clamp(max=999)
        alpha = self.alphas_cumprod[t][:, None, None, None]
        x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        text = self.text_encoder(self.tokens[caption]).last_hidden_state  # (B, 16, 128)
        error = (self.unet(x_t, t, text).sample.float() - noise).square().mean((1, 2, 3))  # (B,)
        snr = (alpha / (1 - alpha)).flatten()
        loss = (error * snr.clamp(max=5) / snr).mean()
        self.log_dict({"loss": loss, "error": error.mean()}, prog_bar=True)
        return loss

    def configure_optimizers(self):
        parameters = [*self.unet.parameters(), *self.text_encoder.parameters()]
        optimizer = torch.optim.AdamW(parameters, self.lr, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.warm_up_and_cosine)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def warm_up_and_cosine(self, step: int) -> float:
        """The learning rate's factor: up in a straight line over 100 steps, then half a cosine down to nothing."""
        left = max(0, step - 100) / max(1, self.steps - 100)
        return min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * min(1.0, left))) / 2
