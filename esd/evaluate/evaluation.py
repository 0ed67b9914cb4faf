"""An evaluation, from its configuration to what it leaves: draws what is missing, has it judged, writes it down."""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from importlib import metadata
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from esd import UserError, files
from esd.command.checks import check_precision, option_errors
from esd.command.model import check_model, load_model
from esd.command.signals import IS_MAIN_PROCESS
from esd.evaluate import variants
from esd.evaluate.filters import count_black, filter_of, write_filtered
from esd.evaluate.generation import Bar, Painter, batches, missing_rows, read_picture, with_size
from esd.evaluate.variants import Variant
from esd.files import read_json, write_json
from esd.metrics.counts import damage, lost
from esd.metrics.filters import Flags
from esd.metrics.tables import figures_tables, published_figures
from esd.models.family import Model
from esd.protocols import Row, each_once
from esd.protocols.base_pictures import other_parts
from esd.sample.pictures import grid, save_picture
from esd.sample.sampling import sampler_of
from esd.sample.unread import lines_about

console = Console(highlight=False, quiet=not IS_MAIN_PROCESS)
PACKAGES = ("torch", "diffusers", "transformers", "pytorch-lightning", "torchmetrics")


def settings_of(cfg: DictConfig, protocol, model, base_hash: str) -> dict:
    """All that the pictures of one folder have in common."""
    return {
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "options": OmegaConf.to_container(cfg.protocol, resolve=True),
        "judge": protocol.record(),
        "model": cfg.model.name,
        "model_hash": base_hash,
        "model_parts": other_parts(model),
        "dtype": cfg.model.dtype,
        "sampling_steps": cfg.sampling_steps,
        **({} if cfg.sampler == "own" else {"sampler": cfg.sampler}),
        "precision": str(cfg.precision),
        "safety_checker": "off",
        **({} if cfg.model.get("prediction", "auto") == "auto" else {"prediction": cfg.model.prediction}),
    }


def folder_of(out: str | None, settings: dict) -> Path:
    """Where it all goes. Raises UserError for a folder whose pictures were made with other settings."""
    value = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    folder = Path(out or f"outputs/evaluate/{settings['protocol']}-{files.slug(settings['model'])}-{value[:8]}").expanduser()
    if not (folder / "settings.json").is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"out={folder} holds other things and no settings.json: give an empty folder, or a new one")
        return folder
    before, now = read_json(folder / "settings.json"), json.loads(json.dumps(settings, default=str))
    if before != now:
        differing = [f"{key} was {before.get(key)}, is {now.get(key)}" for key in now if before.get(key) != now.get(key)]
        raise UserError(f"out={folder} holds pictures made with other settings ({'; '.join(differing)}): give another out=…")
    return folder


def trainer_of(cfg: DictConfig) -> pl.Trainer:
    """The devices that draw, as configured. Raises UserError for one that is not there, or a precision that is unknown."""
    check_precision(cfg.precision, "precision")
    with option_errors("accelerator, devices, precision"):
        return pl.Trainer(
            accelerator=cfg.accelerator, devices=cfg.devices, precision=cfg.precision, logger=False,
            callbacks=[Bar(console)], enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        )  # fmt: skip


def draw(
    cfg: DictConfig,
    trainer: pl.Trainer,
    model: Model,
    wanted: dict[Variant, list[Row]],
    folder: Path,
    flags: dict[tuple, Flags],
) -> None:
    """Every variant's missing pictures, over the trainer's devices. flags: of filters, by the concepts they are for."""
    left = {variant: missing_rows(rows, folder / variant.name) for variant, rows in wanted.items()}  # before any is drawn
    if not any(left.values()):
        return
    bar = next(callback for callback in trainer.callbacks if isinstance(callback, Bar))
    warnings.filterwarnings("ignore", "predict returned None")  # its pictures are files
    for variant, rows in left.items():
        if not rows:
            continue
        if variant.kind == "filter":
            continue
        bar.name, bar.total = variant.title, -(-len(rows) // trainer.world_size)
        with variants.weights_of(model, variant, cfg.model.dtype) as (its, denoiser):
            painter = Painter(
                its, denoiser, folder / variant.name, cfg.sampling_steps, cfg.sampler, **variants.means_of(variant)
            )
            loader = torch.utils.data.DataLoader(rows, batch_size=cfg.batch, collate_fn=list)
            trainer.predict(painter, loader, return_predictions=False)
            trainer.strategy.barrier()
    if not trainer.is_global_zero:
        raise SystemExit(0)  # the first device judges
    for variant, rows in wanted.items():
        if variant.kind == "filter":
            write_filtered(rows, folder / "base", folder / variant.name, flags[variant.concepts])
        if lacking := missing_rows(rows, folder / variant.name):
            raise RuntimeError(f"{len(lacking)} pictures of {variant.name} were not drawn, first '{lacking[0].prompt}'")


def grid_rows(rows: list[Row], at_most: int = 12) -> list[Row]:
    """A few rows of each group, of different prompts and of one size: what a grid shows. The erased come first."""
    taken: dict[str, dict[str, Row]] = {}
    for row in rows:
        group = taken.setdefault(row.group, {})
        if len(group) < 4 and (row.width, row.height) == (rows[0].width, rows[0].height):
            group.setdefault(row.prompt, row)
    groups = sorted(taken, key=lambda group: not group.startswith("erased"))
    return list({row.file: row for group in groups for row in taken[group].values()}.values())[:at_most]


def save_grid(folder: Path, rows: list[Row], shown: list[Variant], file: str) -> None:
    """The variants one above the other, the same prompts and the same noise."""
    rows = grid_rows(rows)
    strips = [torch.stack([read_picture(folder / variant.name / row.file) for row in rows]) for variant in shown]
    save_picture(grid(strips, [variant.title for variant in shown], [row.prompt for row in rows]), folder / file)


def installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def evaluate(cfg: DictConfig, protocol, found: list[Variant], command: str) -> tuple[dict, Path]:
    """Leaves pictures, grids and metrics.json; returns what metrics.json says, and the folder.

    command: what was typed, for the record.
    """
    check_model(cfg.model)
    trainer = trainer_of(cfg)
    device = torch.device("cuda" if cfg.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu")
    flags = {variant.concepts: filter_of(cfg, variant.concepts) for variant in found if variant.kind == "filter"}
    protocol.ready(device)
    asked = {variant: each_once(protocol.rows(variant.concepts, variant.erase_from)) for variant in found}
    model = load_model(cfg.model)
    sampler_of(model, cfg.sampling_steps, cfg.sampler)
    if protocol.side not in (None, drawn := model.latent_shape[-1] * model.base.vae_scale_factor):
        raise UserError(f"protocol={protocol.name} judges pictures of {protocol.side} pixels: {cfg.model.name} draws {drawn}")
    base_hash = model.base_hash
    every = list({row.file: row for rows in asked.values() for row in rows}.values())
    for width, height in {(row.width, row.height) for row in every}:
        with_size(model, width, height)
    for variant in found:
        variants.check_base(model, base_hash, variant)
    settings = settings_of(cfg, protocol, model, base_hash)
    folder = folder_of(cfg.out, settings)
    write_json(folder / "settings.json", settings)
    base = Variant("base", "base", base_hash)
    wanted = {base: every} | asked
    count = sum(len(missing_rows(rows, folder / variant.name)) for variant, rows in wanted.items())
    total = sum(len({row.file for row in rows}) for rows in wanted.values())
    negatives = [", ".join(variant.concepts) for variant in found if variant.kind == "negative prompt"]
    for said in lines_about(model, [*negatives, *(row.prompt for row in every)], cfg.model.path is None):
        console.print(f"warning: {said}", style="yellow", soft_wrap=True, markup=False)
    console.print(f"{count} pictures to draw, {total - count} there already, in {folder}", soft_wrap=True, markup=False)
    draw(cfg, trainer, model, wanted, folder, flags)

    results, path = {}, folder / "metrics.json"
    if path.is_file():  # what was evaluated here before, with the same settings
        results = read_json(path)["results"]
    for variant, rows in asked.items():
        with console.status(f"Judging {escape(variant.title)}"):
            figures = {
                name: protocol.measure(batches(rows, folder / whose.name, folder / "base", device))
                for name, whose in (("base", base), ("edit", variant))
            }
        results[variant.name] = {
            "kind": variant.kind, "title": variant.title, "concept": list(variant.concepts),
            "erase_from": list(variant.erase_from), "path": variant.path, "hash": variant.hash,
            "record": variant.record, "pictures": len({row.file for row in rows}), **figures,
            "lost": lost(figures["base"], figures["edit"]),
            "grid": f"{variant.name}.png", "command": command,
        }  # fmt: skip
        if variant.kind == "filter":
            results[variant.name]["black"] = count_black(rows, folder / variant.name)
        save_grid(folder, rows, [base, variant], f"{variant.name}.png")
    common = set.intersection(*({row.file for row in rows} for rows in asked.values()))
    if shared := [row for row in asked[found[0]] if row.file in common]:
        save_grid(folder, shared, [base, *found], "grid.png")
    metrics = {
        **settings, "labels": protocol.labels, "reference": protocol.reference,
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}}, "results": results,
    }  # fmt: skip
    write_json(path, metrics)
    for table in figures_tables(protocol, [results[variant.name] for variant in found], console.width):
        console.print(table)
    for variant in found:
        if line := damage(results[variant.name]["base"], results[variant.name]["edit"]):
            console.print(f"{variant.title}: {line}", soft_wrap=True, markup=False)
    if said := published_figures(protocol):
        console.print(said, style="dim", markup=False)
    console.print(f"Figures: {path}. Pictures, and grids of them side by side: {folder}", soft_wrap=True, markup=False)
    return metrics, folder
