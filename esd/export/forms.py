"""An edit in the forms that the places where people run models take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from esd import UserError
from esd.command.checks import one_text, option_errors, refuse_quantized, require_at_least, require_bool, require_one_of
from esd.command.entry import error_line
from esd.command.model import check_model, load_model
from esd.files import atomic_write, read_json, slug

if TYPE_CHECKING:
    from rich.console import Console

FORMS = ("official", "diffusers", "single-file", "lora")


def check(cfg: DictConfig) -> None:
    """Everything that can be told without a model. Raises UserError."""
    one_text(cfg.edit, "edit")
    refuse_quantized(cfg.model)
    require_one_of(cfg.to, "to", FORMS)
    require_one_of(cfg.format, "format", ("peft", "kohya"))
    require_bool(cfg, "strict", "allow_pickle")
    if cfg.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(cfg.push)):
        raise UserError(f"push={cfg.push} is no OWNER/NAME of a repository on the hub")
    if cfg.to != "lora" and (cfg.rank is not None or cfg.energy is not None or cfg.format != "peft"):
        raise UserError(f"rank, energy and format are a LoRA's: leave them out, or give to=lora instead of to={cfg.to}")
    if cfg.dtype is not None:
        require_one_of(cfg.dtype, "dtype", ("fp16", "bf16", "fp32"))
        if cfg.to != "single-file":
            raise UserError(f"dtype={cfg.dtype} is for to=single-file: leave it out for to={cfg.to}")
    if cfg.rank is not None and cfg.energy is not None:
        raise UserError(f"rank={cfg.rank} and energy={cfg.energy} are two ways to say the same: give one of them")
    if cfg.rank is not None:
        require_at_least(cfg, rank=1)
    if cfg.energy is not None and not (isinstance(cfg.energy, int | float) and 0 < cfg.energy <= 1):
        raise UserError(f"energy={cfg.energy} must be above 0 and up to 1, for example energy=0.95")
    check_model(cfg.model)


def export(cfg: DictConfig, folder: Path, console: Console) -> None:
    """The export and its model card, in the folder; and on the hub where that is asked for."""
    from esd.erasing.edit import base_mismatch, check_edit, read_edit
    from esd.export.card import card

    edit = read_edit(cfg.edit, cfg.allow_pickle)
    model = load_model(cfg.model, "auto")
    check_edit(model.denoiser, edit)
    if said := base_mismatch(edit, model.base_hash, cfg.model.name, cfg.strict):
        console.print(f"warning: {said}", style="yellow", soft_wrap=True)
    file, facts = write(
        cfg, model, edit, folder, f"{slug(cfg.model.name)}-without-{slug(edit.record.get('concept', 'concept'))}"
    )
    record = edit.record or {"base": cfg.model.name}
    with option_errors("the edit's record, or metrics.json beside it"):
        page = card(record, run_metrics(cfg.edit), facts, cfg.to, file, type(model.base).__name__)
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(page, encoding="utf-8")
    for name, text in facts.items():
        console.print(f"{name}: {text}", soft_wrap=True)
    console.print(f"Exported: {folder / file}", soft_wrap=True)
    if cfg.push:
        from huggingface_hub import HfApi

        try:
            HfApi().create_repo(cfg.push, exist_ok=True)
            console.print(f"Pushed: {HfApi().upload_folder(repo_id=cfg.push, folder_path=folder)}", soft_wrap=True)
        except Exception as error:  # no network, no login, no right: of several libraries
            raise UserError(
                f"push={cfg.push}: the hub did not take it ({error_line(error)}); the export is in {folder}"
            ) from error


def run_metrics(edit: str) -> dict:
    """The metrics.json of the edit's run, if it is still with it, and what an attack on it left there as "attack"."""
    path = Path(edit).expanduser()
    folder = path if path.is_dir() else path.parent
    found = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    if found and (folder / "attack.json").is_file():
        found["attack"] = read_json(folder / "attack.json")
    return found


def write(cfg: DictConfig, model, edit, folder: Path, stem: str) -> tuple[str, dict[str, str]]:
    """Write the export to the folder. Returns the name of what to load in it, and what there is to say of it."""
    from safetensors.torch import save_file

    from esd.erasing.edit import apply_edit, save_edit, whole
    from esd.export.layout import original
    from esd.models.hashes import own_weights
    from esd.models.precision import STORED
    from esd.models.prediction import spoken_of

    if cfg.to == "lora":
        return lora(cfg, model, edit, folder, stem)
    if cfg.to == "official":
        edit = whole(edit, own_weights(model.denoiser))  # the authors' scripts know no LoRA
        save_edit(folder / f"{stem}.safetensors", edit)
        return f"{stem}.safetensors", {"Tensors": f"{len(edit.tensors)}, all weights of {type(model.denoiser).__name__}"}
    apply_edit(model.denoiser, edit)
    dtype = STORED.get(cfg.dtype)
    model.denoiser.to(dtype or model.on_disk)
    if cfg.to == "diffusers":
        model.base.save_pretrained(folder)
        return "", {"Precision": str(model.on_disk).removeprefix("torch."), "Safety checker": "none"}
    state = original(model.base, dtype)
    predicts = "v" if model.scheduler.config.prediction_type == "v_prediction" else "epsilon"
    with atomic_write(folder / f"{stem}.safetensors") as temporary:
        save_file(state, temporary, {"format": "pt", "modelspec.prediction_type": predicts})
    configurations(model.base, folder / stem)
    facts = {"Precision": str(dtype or model.on_disk).removeprefix("torch."), "Predicts": spoken_of(model.scheduler)}
    return f"{stem}.safetensors", {"Tensors": str(len(state)), **facts, "Safety checker": "none"}


def configurations(pipe, folder: Path) -> None:
    """The pipeline without its weights: what a loader of the single file needs to know, with no network."""
    pipe.save_config(folder)
    for name, part in pipe.components.items():
        if part is None:
            continue
        if hasattr(part, "save_config"):
            part.save_config(folder / name)
        else:  # transformers: a tokenizer, or a model's configuration
            getattr(part, "config", part).save_pretrained(folder / name)


def lora(cfg: DictConfig, model, edit, folder: Path, stem: str) -> tuple[str, dict[str, str]]:
    """The change as LoRA, with the error that it leaves: none, where LoRA was what was trained."""
    from safetensors.torch import save_file

    from esd.erasing.edit import whole
    from esd.erasing.lora_factors import is_lora
    from esd.export.lora import decompose, kohya_keys, peft_keys, trained

    tensors = whole(edit, dict(model.denoiser.named_parameters())).tensors
    base = {name: p.detach() for name, p in model.denoiser.named_parameters() if name in tensors}
    if is_lora(edit.tensors) and cfg.rank is None and cfg.energy is None:
        made = trained(edit.tensors)
    else:
        made = decompose(base, tensors, 16 if cfg.rank is None and cfg.energy is None else cfg.rank, cfg.energy)
    keys = (kohya_keys if cfg.format == "kohya" else peft_keys)(made, model.denoiser)
    name = f"{stem}-lora-{made.rank}.safetensors"
    with atomic_write(folder / name) as temporary:
        save_file(keys, temporary, {"format": "pt"})
    facts = {"Rank": f"{made.rank}, alpha {made.rank}, {len(made.factors)} matrices"}
    facts["Relative error of the weights"] = f"{made.error:.4f}"
    if made.left_out:
        facts["Left out"] = f"{len(made.left_out)} changed biases and norms, which LoRA cannot hold ({made.left_out[0]}, …)"
    if cfg.model.path is None:
        facts["Mean difference of pictures"] = f"{difference(model, edit, made.tensors(base)):.2f} of 255 levels"
    return name, facts


def difference(model, edit, approximate: dict) -> float:
    """Mean absolute difference of the embedded model's pictures by the edit and by its approximation, in 8-bit levels."""
    from esd.erasing.edit import Edit, apply_edit
    from esd.sample.sampling import sample

    prompts = [*edit.record.get("concept", []), "a cat", "a car"][:6]
    drawn = []
    for weights in (edit.tensors, approximate):
        replaced = apply_edit(model.denoiser, Edit(weights))
        drawn.append(sample(model, model.denoiser, prompts, range(len(prompts)), steps=20, guidance=3.0))
        apply_edit(model.denoiser, Edit(replaced))
    return 255 * float((drawn[0] - drawn[1]).abs().mean())
