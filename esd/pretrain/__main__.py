"""python -m esd.pretrain: make the embedded model again, from the art that ships: autoencoder, U-Net, judge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from esd import UserError
from esd.command.checks import option_errors, require_at_least
from esd.command.entry import command


@command("pretrain")
def main(cfg: DictConfig) -> None:
    require_at_least(cfg, seed=0, devices=1)
    if cfg.init is not None and not Path(str(cfg.init), "model_index.json").is_file():
        raise UserError(f"init={cfg.init} is no model's folder: it has no model_index.json")
    twin_of = cfg.pretrain.twin_of
    if twin_of is not None and not Path(str(twin_of), "vae/config.json").is_file():
        raise UserError(f"pretrain.twin_of={twin_of} is no model's folder: it has no vae/config.json")
    out, said = Path(cfg.out), f"the model is in {Path(cfg.out, 'model')}, the judge in {Path(cfg.out, 'judge')}"
    if (out / "model/model_index.json").exists() and (twin_of is not None or (out / "judge/judge.safetensors").exists()):
        print(said)
        return
    import torch

    from esd.models.quiet import silence_libraries

    silence_libraries()
    import pytorch_lightning as pl

    with option_errors("accelerator, devices, precision"):
        trainer = pl.Trainer(accelerator=cfg.accelerator, devices=cfg.devices, precision=cfg.precision, logger=False)
    from esd.emoji import art, vae, words
    from esd.files import write_json
    from esd.pretrain import parts
    from esd.report.result import code_of, machine

    torch.manual_seed(cfg.seed)
    settings = cfg.pretrain
    device = torch.device("cpu") if cfg.devices > 1 else trainer.strategy.root_device  # several are forked later
    generator = torch.Generator().manual_seed(cfg.seed)
    objects, others = parts.drawings(settings.one_in)
    if settings.twin_of:
        objects = objects.only([noun not in words.STUDIED for noun in objects.noun])
        shutil.copytree(Path(settings.twin_of, "vae"), out / "model/vae", dirs_exist_ok=True)
    objects.images = art.variants(objects.pictures, settings.variants, generator, device=device)
    others.images = art.variants(others.pictures, max(1, settings.variants // 8), generator, device=device)

    autoencoder = parts.make_autoencoder(objects, others, cfg, device, out)
    latents = vae.encode(autoencoder, objects.images)
    if not settings.twin_of:  # it has its model's judge
        parts.make_judge(objects, others, latents, autoencoder, cfg, generator, device, out)

    if not (out / "model/model_index.json").exists():
        held_out, taught = set(words.held_out_pairs()), art.captioned_others()
        trained = [pair not in held_out for pair in zip(objects.noun, objects.style, strict=True)]
        named = others.only([name in taught for name in others.noun])
        named.images = art.variants(named.pictures, settings.variants, generator, device=device)
        both = latents[torch.tensor(trained)], vae.encode(autoencoder, named.images)
        seconds = parts.make_unet(objects.only(trained), named, both, autoencoder, cfg, out)
        record = {
            "settings": OmegaConf.to_container(settings, resolve=True),
            "seed": cfg.seed,
            "precision": cfg.precision,
            "seconds": seconds,
            "machine": machine(),
            "commit": code_of([])["commit"],
        }
        if cfg.init and (before := Path(cfg.init, "record.json")).is_file():
            record["init"] = json.loads(before.read_text(encoding="utf-8"))
        write_json(out / "model/record.json", record)
    print(said)


if __name__ == "__main__":
    main()
