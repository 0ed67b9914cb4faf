"""python -m esd.export edit=… to=…: an edit in the form that the place where the model runs takes. See conf/export.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from esd.command import Mistake, command, one_line, slug
from esd.config import least, made_of, one_of, one_text
from esd.files import read_json, whole

if TYPE_CHECKING:
    from rich.console import Console

FORMS = ("official", "diffusers", "single-file", "lora")


def check(cfg: DictConfig) -> None:
    """Everything that can be told without a model. Raises Mistake."""
    one_text(cfg.edit, "edit")
    one_of(cfg.to, "to", FORMS)
    one_of(cfg.format, "format", ("peft", "kohya"))
    for name in ("strict", "allow_pickle"):
        if not isinstance(cfg[name], bool):
            raise Mistake(f"{name}={cfg[name]} must be true or false")
    if cfg.push is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(cfg.push)):
        raise Mistake(f"push={cfg.push} is no OWNER/NAME of a repository on the hub")
    if cfg.to != "lora" and (cfg.rank is not None or cfg.energy is not None or cfg.format != "peft"):
        raise Mistake(f"rank, energy and format are a LoRA's: leave them out, or give to=lora instead of to={cfg.to}")
    if cfg.rank is not None and cfg.energy is not None:
        raise Mistake(f"rank={cfg.rank} and energy={cfg.energy} are two ways to say the same: give one of them")
    if cfg.rank is not None:
        least(cfg, rank=1)
    if cfg.energy is not None and not (isinstance(cfg.energy, int | float) and 0 < cfg.energy <= 1):
        raise Mistake(f"energy={cfg.energy} must be above 0 and up to 1, for example energy=0.95")
    from esd.models import folder_of

    folder_of(cfg.model.path)


@command("export")
def main(cfg: DictConfig) -> None:
    check(cfg)
    from hydra.core.hydra_config import HydraConfig
    from rich.console import Console

    export(cfg, Path(HydraConfig.get().runtime.output_dir), Console(highlight=False, markup=False))


def export(cfg: DictConfig, folder: Path, console: Console) -> None:
    """The export and its model card, in the folder; and on the hub where that is asked for."""
    from esd import edits, models
    from esd.card import card

    edit = edits.read_edit(cfg.edit, cfg.allow_pickle)
    model = models.load(cfg.model.path, cfg.model.name)
    edits.check(model.denoiser, edit)
    if said := edits.foreign(edit, edits.fingerprint(model.denoiser), cfg.model.name, cfg.strict):
        console.print(f"warning: {said}", style="yellow", soft_wrap=True)
    file, facts = write(
        cfg, model, edit, folder, f"{slug(cfg.model.name)}-without-{slug(edit.record.get('concept', 'concept'))}"
    )
    record = edit.record or {"base": cfg.model.name}
    with made_of("the edit's record, or metrics.json beside it"):
        page = card(record, beside(cfg.edit), facts, cfg.to, file, type(model.base).__name__)
    with whole(folder / "README.md") as temporary:
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
            raise Mistake(f"push={cfg.push}: the hub did not take it ({one_line(error)}); the export is in {folder}") from error


def beside(edit: str) -> dict:
    """The metrics.json of the edit's run, if it is still with it."""
    path = Path(edit).expanduser()
    path = (path if path.is_dir() else path.parent) / "metrics.json"
    return read_json(path) if path.is_file() else {}


def write(cfg: DictConfig, model, edit, folder: Path, stem: str) -> tuple[str, dict[str, str]]:
    """Write the export to the folder. Returns the name of what to load in it, and what there is to say of it."""
    from safetensors.torch import save_file

    from esd import edits, layout

    if cfg.to == "lora":
        return lora(cfg, model, edit, folder, stem)
    if cfg.to == "official":
        edits.save_edit(folder / f"{stem}.safetensors", edit)
        return f"{stem}.safetensors", {"Tensors": f"{len(edit.tensors)}, all weights of {type(model.denoiser).__name__}"}
    edits.apply(model.denoiser, edit)
    if cfg.to == "diffusers":
        model.base.save_pretrained(folder)
        return "", {"Safety checker": "none"}
    state = layout.original(model.base)
    with whole(folder / f"{stem}.safetensors") as temporary:
        save_file(state, temporary, {"format": "pt"})
    configurations(model.base, folder / stem)
    return f"{stem}.safetensors", {"Tensors": str(len(state)), "Safety checker": "none"}


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
    """The change as LoRA, with the error that it leaves."""
    from safetensors.torch import save_file

    from esd import lora

    base = {name: p.detach() for name, p in model.denoiser.named_parameters() if name in edit.tensors}
    made = lora.decompose(base, edit.tensors, 16 if cfg.rank is None and cfg.energy is None else cfg.rank, cfg.energy)
    keys = (lora.kohya_keys if cfg.format == "kohya" else lora.peft_keys)(made, model.denoiser)
    name = f"{stem}-lora-{made.rank}.safetensors"
    with whole(folder / name) as temporary:
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
    from esd.edits import Edit, apply
    from esd.sampling import sample

    prompts = [*edit.record.get("concept", []), "a cat", "a car"][:6]
    drawn = []
    for weights in (edit.tensors, approximate):
        replaced = apply(model.denoiser, Edit(weights))
        drawn.append(sample(model, model.denoiser, prompts, range(len(prompts)), steps=20, guidance=3.0))
        apply(model.denoiser, Edit(replaced))
    return 255 * float((drawn[0] - drawn[1]).abs().mean())


if __name__ == "__main__":
    main()
