"""python -m esd.sample edit=… prompt=…: pictures of base and edit from the same noise."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from esd.command.checks import one_text, refuse_quantized, require_at_least, require_bool, require_one_of, texts
from esd.command.entry import command
from esd.command.model import ACCELERATORS, check_model, device_of, load_model
from esd.files import slug


@command("sample")
def main(cfg: DictConfig) -> None:
    path, prompts = one_text(cfg.edit, "edit"), texts(cfg.prompt, "prompt")
    require_bool(cfg, "allow_pickle")
    require_at_least(cfg, count=1, sampling_steps=1, seed=0, guidance=0.0)
    require_one_of(cfg.accelerator, "accelerator", ACCELERATORS)
    refuse_quantized(cfg.model)
    import torch
    from hydra.core.hydra_config import HydraConfig
    from rich.console import Console

    from esd.command.progress import progress
    from esd.erasing.edit import apply_edit, base_mismatch, check_edit, read_edit
    from esd.sample.pictures import grid, save_picture, to_image
    from esd.sample.sampling import sample
    from esd.sample.unread import lines_about

    edit = read_edit(path, cfg.allow_pickle)
    check_model(cfg.model)
    folder = Path(HydraConfig.get().runtime.output_dir)
    console = Console(highlight=False, markup=False)
    device = device_of(cfg.accelerator)
    model = load_model(cfg.model)
    check_edit(model.denoiser, edit)
    asked = [prompt for prompt in prompts for _ in range(cfg.count)]
    seeds = [cfg.seed + n for _ in prompts for n in range(cfg.count)]
    console.print(f"{len(asked)} pictures each of base and edit, to {folder}", soft_wrap=True)
    if said := base_mismatch(edit, model.base_hash, cfg.model.name, strict=False):
        console.print(f"warning: {said}", style="yellow", soft_wrap=True)
    for said in lines_about(model, prompts, cfg.model.path is None):
        console.print(f"warning: {said}", style="yellow", soft_wrap=True)
    look = {"steps": cfg.sampling_steps, "guidance": cfg.guidance}
    model.denoiser.to(device)
    on_gpu = device.type == "cuda" and str(cfg.model.get("precision")) == "bf16-mixed"  # the processor computes in float32
    with progress(console, "pictures") as bar, torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
        task = bar.add_task("Drawing", total=2 * len(asked))
        drawn = {}
        for name in ("base", "edit"):
            if name == "edit":
                apply_edit(model.denoiser, edit)
            drawn[name] = sample(model, model.denoiser, asked, seeds, done=lambda n: bar.advance(task, n), **look)
    names: dict[str, str] = {}  # of different prompts different ones
    for prompt in prompts:
        name, n = slug(prompt), 1
        while prompt not in names and name in names.values():
            name, n = f"{slug(prompt)}-{n}", n + 1
        names.setdefault(prompt, name)
    for name, images in drawn.items():
        for prompt, seed, image in zip(asked, seeds, images, strict=True):
            save_picture(to_image(image), folder / name / f"{names[prompt]}-{seed}.png")
    noises = [f"noise {seed}" for seed in seeds]
    if len(prompts) == 1:
        labels, captions = [f"{name}: {prompts[0]}" for name in drawn], noises
    else:
        labels, captions = list(drawn), asked if cfg.count == 1 else [f"{n}: {p}" for n, p in zip(noises, asked, strict=True)]
    page = grid(list(drawn.values()), labels, captions, together=cfg.count)
    save_picture(page, folder / "grid.png")
    console.print(f"Side by side: {folder / 'grid.png'}", soft_wrap=True)


if __name__ == "__main__":
    main()
