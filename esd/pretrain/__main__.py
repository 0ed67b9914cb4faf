"""python -m esd.pretrain: make the embedded model again, from the art that ships: autoencoder, U-Net, judge."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from esd import UserError
from esd.command.checks import option_errors, require_at_least
from esd.command.entry import command


@command("pretrain")
def main(cfg: DictConfig) -> None:
    require_at_least(cfg, seed=0, devices=1)
    if cfg.init is not None and not Path(str(cfg.init), "model_index.json").is_file():
        raise UserError(f"init={cfg.init} is no model's folder: it has no model_index.json")
    import torch
    from diffusers import StableDiffusionPipeline

    from esd.models.quiet import silence_libraries

    silence_libraries()
    import pytorch_lightning as pl

    with option_errors("accelerator, devices, precision"):
        pl.Trainer(accelerator=cfg.accelerator, devices=cfg.devices, precision=cfg.precision, logger=False)
    from esd.emoji import art, unet, vae, words
    from esd.emoji import judge as judges
    from esd.emoji.fitting import Pictures, fit

    torch.manual_seed(cfg.seed)
    out = Path(cfg.out)
    generator = torch.Generator().manual_seed(cfg.seed)
    pictures, noun, style = art.objects()  # (340, 4, 128, 128)
    other, other_name, other_style = art.others()
    nouns, styles = list(words.OBJECTS), list(words.STYLES)
    studied = torch.tensor([nouns[n] in words.STUDIED for n in noun.tolist()])
    if cfg.pretrain.twin:
        pictures, noun, style, studied = pictures[~studied], noun[~studied], style[~studied], studied[~studied]
    images = art.variants(pictures, cfg.pretrain.variants, generator)  # (340, V, 3, 64, 64)
    shown = other_name % 4 != 3  # every fourth other emoji is kept for the judge's test
    other_images = art.variants(other[shown], max(1, cfg.pretrain.variants // 8), generator)

    autoencoder = vae.new_vae()
    if cfg.pretrain.twin:
        shutil.copytree(models.EMOJI / "vae", out / "model/vae", dirs_exist_ok=True)
    if not (out / "model/vae").exists():
        everything = torch.cat([images[~studied].flatten(0, 1), other_images.flatten(0, 1)])
        module = vae.VAETraining(autoencoder, cfg.pretrain.vae.lr, cfg.pretrain.vae.steps)
        fit(
            module,
            Pictures(everything, batch=cfg.pretrain.vae.batch, seed=cfg.seed),
            cfg.pretrain.vae.steps,
            cfg,
            out / "checkpoints/vae",
        )
        vae.whiten(autoencoder.eval(), images[~studied].flatten(0, 1)[::7])
        autoencoder.half().save_pretrained(out / "model/vae")
    autoencoder = vae.AutoencoderKL.from_pretrained(out / "model/vae").float().eval().requires_grad_(False)
    latents = vae.encode(autoencoder, images.flatten(0, 1)).unflatten(0, images.shape[:2])  # (340, V, 4, 16, 16)

    if not cfg.pretrain.twin and not (out / "judge/judge.safetensors").exists():  # a twin has its model's judge
        times = max(1, cfg.pretrain.variants // 4)
        broken = judges.broken_pictures(
            images[:, 0].repeat(times, 1, 1, 1), latents[:, 0].repeat(times, 1, 1, 1), autoencoder, generator
        )
        with torch.no_grad():  # the judge must know objects by their reconstructions too
            seen = [autoencoder.decode(z).sample for z in latents[:, :times].flatten(0, 1).split(256)]
        redrawn = torch.cat(seen).add(1).mul(127.5).clamp(0, 255).byte()
        strong = art.variants(pictures, max(1, cfg.pretrain.variants // 2), generator, strength=1.5)
        parts = [  # pictures, object, style, share of a batch
            (images.flatten(0, 1), noun.repeat_interleave(images.shape[1]), style.repeat_interleave(images.shape[1]), 0.15),
            (strong.flatten(0, 1), noun.repeat_interleave(strong.shape[1]), style.repeat_interleave(strong.shape[1]), 0.2),
            (redrawn, *(x.repeat_interleave(len(redrawn) // len(pictures)) for x in (noun, style)), 0.2),
            (other_images.flatten(0, 1), torch.full((other_images.shape[0] * other_images.shape[1],), judges.SOMETHING_ELSE),
             other_style[shown].repeat_interleave(other_images.shape[1]), 0.35),
            (broken, torch.full((len(broken),), judges.SOMETHING_ELSE), torch.full((len(broken),), -1), 0.1),
        ]  # fmt: skip
        judge = judges.Judge()
        module = judges.JudgeTraining(judge, cfg.pretrain.judge.lr, cfg.pretrain.judge.steps)
        data = Pictures(*map(torch.cat, zip(*[part[:3] for part in parts], strict=True)), batch=cfg.pretrain.judge.batch,
                        seed=cfg.seed, shares=[(len(part[0]), part[3]) for part in parts])  # fmt: skip
        fit(module, data, cfg.pretrain.judge.steps, cfg, out / "checkpoints/judge")
        record = judges.judge_quality(
            judge.eval(), pictures, noun, style, other[~shown], min(8, cfg.pretrain.variants), generator
        )
        judges.save_judge(judge, out / "judge", record)
        print("judge:", ", ".join(f"{key} {value}" for key, value in record.items()))

    if not (out / "model/model_index.json").exists():
        tokenizer = unet.new_tokenizer(out / "tokenizer")
        text_encoder, denoiser = unet.new_text_encoder(tokenizer), unet.new_unet()
        if cfg.init:  # go on from a finished model, with a new schedule
            before = StableDiffusionPipeline.from_pretrained(cfg.init)
            if before.tokenizer.get_vocab() != tokenizer.get_vocab():
                raise UserError(f"init={cfg.init}: its tokenizer knows other words than today's esd/emoji/words.py")
            text_encoder.load_state_dict(before.text_encoder.float().state_dict())
            denoiser.load_state_dict(before.unet.float().state_dict())
        captions = unet.Captions(tokenizer)
        held_out = set(words.held_out_pairs())
        pairs = [(nouns[n], styles[s]) for n, s in zip(noun.tolist(), style.tolist(), strict=True)]
        trained = [i for i, pair in enumerate(pairs) if pair not in held_out]
        taught = art.captioned_others()
        name_of = {i: name for name, i in taught.items()}
        rows = [i for i, name in enumerate(other_name.tolist()) if name in name_of]
        other_latents = art.variants(other[rows], max(1, cfg.pretrain.variants // 4), generator)
        other_latents = vae.encode(autoencoder, other_latents.flatten(0, 1)).unflatten(0, other_latents.shape[:2])
        data = unet.CaptionedLatents(
            (latents[trained], [pairs[i][0] for i in trained], [pairs[i][1] for i in trained]),
            (other_latents, [name_of[other_name[i].item()] for i in rows], [styles[other_style[i]] for i in rows]),
            captions,
            cfg.pretrain.unet.batch,
            cfg.seed,
        )
        module = unet.UNetTraining(
            denoiser, text_encoder, captions.tokens, cfg.pretrain.unet.lr, cfg.pretrain.unet.steps, cfg.seed
        )
        fit(module, data, cfg.pretrain.unet.steps, cfg, out / "checkpoints/unet", ema=cfg.pretrain.unet.ema)
        pipeline = StableDiffusionPipeline(
            autoencoder, text_encoder.eval(), tokenizer, denoiser.eval(), unet.new_scheduler(), None, None,
            requires_safety_checker=False,
        )  # fmt: skip
        denoiser.half(), autoencoder.half()  # 16 bits on disk; the text encoder, which transformers loads as it is kept, in 32
        pipeline.save_pretrained(out / "model")
    print(f"the model is in {out / 'model'}, the judge in {out / 'judge'}")


if __name__ == "__main__":
    main()
