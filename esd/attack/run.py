"""Attacks, from their configuration to what they leave: run what is missing, judge it, write it down."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from esd import UserError, models
from esd.attack import figures as figuring
from esd.attack import grids, tables, tries
from esd.attack.options import rows_of
from esd.attack.rows import EmojiWorld, RealWorld, Rows, edited, noises
from esd.attack.sampling_attacks import ddim_of
from esd.attack.tries import EDIT, NEVER, Try
from esd.command.checks import one_text, option_errors, texts
from esd.command.entry import free_determinism
from esd.command.model import check_model, device_of, load_model
from esd.emoji.subject import names_anything
from esd.erasing.edit import Edit, check_edit, read_edit, whole
from esd.evaluate.variants import Variant, edit_variant
from esd.files import slug, write_json
from esd.models.encoders import text_encoders
from esd.models.hashes import fingerprint
from esd.protocols.base_pictures import other_parts
from esd.sample.pictures import save_picture, to_image

console = Console(highlight=False)
CEILING = 2  # the rows of the ceilings have as many pictures, divided by this


@dataclass
class Job:
    """One call of an attack: on a row of a concept of an edit, with a seed."""

    variant: Variant
    rows: Rows
    attack: str
    row: str
    seed: int
    settings: str
    made: list[Try] = field(default_factory=list)

    @property
    def run(self) -> tuple:
        return self.variant.name, self.rows.concept, self.attack, self.settings, self.row, self.seed

    def alike(self, attacks: dict) -> tuple:
        """What is the same for jobs that give the same: a row that has nothing of the edit is attacked once for all edits."""
        return self.run[1:] if self.rows.alike(self.row, attacks[self.attack][0]) else self.run


class Forwards:
    """Rows that pass through a model's denoisers, counted by a hook."""

    def __init__(self):
        self.rows = 0

    def watch(self, denoiser: nn.Module) -> None:
        denoiser.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        first = args[0] if args else next(iter(kwargs.values()))
        self.rows += len(first)


def look_of(cfg: DictConfig) -> dict:
    """How pictures are drawn, as sample() is told."""
    return {"steps": cfg.sampling_steps, "guidance": cfg.guidance, "sampler": cfg.sampler}


def settings_hash(settings: dict, cfg: DictConfig, *also: object) -> str:
    """Of all that a try depends on beside the edit: the attack's options, how pictures are drawn, and `also` the models, the
    pictures that are given, the judge."""
    drawn = [look_of(cfg), cfg.pictures, str(cfg.precision), cfg.model.dtype, *also]
    return hashlib.sha256(json.dumps([settings, *drawn], sort_keys=True, default=str).encode()).hexdigest()[:12]


def judge_of(cfg: DictConfig, device: torch.device):
    """Who sees the concept; of the embedded model None: it has its own. Raises UserError where there is none."""
    if cfg.model.name == "emoji":
        return None
    from esd.attack.clip_judge import ClipJudge

    if not cfg.judge:
        return ClipJudge(device=device)
    if not isinstance(cfg.judge, DictConfig) or "_target_" not in cfg.judge:
        raise UserError("judge names no class: +judge._target_=module.Class, with sees(pictures, text) and record()")
    with option_errors("judge"):
        judge = instantiate(cfg.judge)
    if lacking := [name for name in ("sees", "record") if not callable(getattr(judge, name, None))]:
        raise UserError(f"judge: {type(judge).__name__} has no {' and no '.join(lacking)}: sees(pictures, text) and record()")
    return judge


def world_of(cfg: DictConfig, model, judge) -> EmojiWorld | RealWorld:
    """Where pictures and judges come from."""
    if cfg.model.name == "emoji":
        return EmojiWorld(model)
    kept = [cfg.kept] if cfg.kept else list(cfg.model.kept)
    images = Path(cfg.images).expanduser() if cfg.images else None
    return RealWorld(model, images, judge, kept, look_of(cfg))


def edits_of(cfg: DictConfig, option: str, concepts: list[str]) -> list[Variant]:
    """The edits that an option names, each once. Raises UserError, by that option's name."""
    found: dict[str, Variant] = {}
    for path in texts(cfg[option], option):
        try:
            variant = edit_variant(path, concepts, cfg.allow_pickle)
        except UserError as error:
            raise UserError(str(error).replace("edit=", f"{option}=", 1)) from error
        found.setdefault(variant.name, variant)
    return list(found.values())


def attack(cfg: DictConfig, attacks: dict[str, tuple[object, dict]], command: str) -> tuple[list[dict], Path]:
    """Leaves tries.csv, metrics.json, tables and grids; returns the figures and the folder."""
    started = time.perf_counter()
    concepts = texts(cfg.concept, "concept") if cfg.concept else []
    variants = edits_of(cfg, "edit", concepts)
    others = edits_of(cfg, "against", []) if cfg.against else []
    for variant in variants:
        if not variant.concepts:
            raise UserError(f"edit={variant.path} does not say what was erased: give it as concept=…")
        if cfg.model.name == "emoji" and (nameless := [text for text in variant.concepts if not names_anything(text)]):
            raise UserError(f"concept={nameless[0]} names no object and no style that the embedded model's judge can look for")
    check_model(cfg.model)
    check_twin(cfg)
    judge = judge_of(cfg, device_of(cfg.accelerator))
    model = load_model(cfg.model)
    base_hash = model.base_hash
    opened = {variant.name: matching(variant, model, base_hash) for variant in [*variants, *others]}
    twin = twin_of(cfg, model)
    device = device_of(cfg.accelerator)
    torch.use_deterministic_algorithms(bool(free_determinism()), warn_only=True)
    for its in filter(None, (model, twin)):
        for network in (its.denoiser, *text_encoders(its.base).values()):  # gradients pass through both
            network.to(device).requires_grad_(False)
    world = world_of(cfg, model, judge)
    prompts = [world.prompt(concept) for variant in variants for concept in variant.concepts]
    prompts += [world.prompt(kept) for variant in variants if (kept := world.kept(variant.concepts))]
    for name, (its, _) in list(attacks.items()):
        try:
            require(name, its, model, prompts)
        except UserError as error:
            if cfg.attacks != "all":
                raise
            console.print(f"[bold]Left out[/] {name}: {escape(str(error))}", soft_wrap=True)
            del attacks[name]

    folder, same = folder_of(cfg, variants, base_hash), [base_hash, other_parts(model), world.record()]
    done = tries.read(folder / "tries.csv")
    jobs = []
    for variant in variants:
        for concept in dict.fromkeys(variant.concepts):
            its_twin = twin if cfg.twin != "auto" or world.twin_never_learnt(concept) else None
            rows = Rows(model, opened[variant.name], concept, world, its_twin, look_of(cfg), variant.concepts)
            for name, (its, settings) in attacks.items():
                for row in (row for row in rows_of(cfg) if rows.has(row, its)):
                    tried_on = [other.name for other in others] if row == EDIT else []  # what is found here is tried there, too
                    value = settings_hash(settings, cfg, *same, its_twin and its_twin.base_hash, tried_on)
                    for seed in range(cfg.seeds if row in (EDIT, NEVER) else 1):
                        jobs.append(Job(variant, rows, name, row, seed, value))
    if not jobs:
        raise UserError(f"rows={rows_of(cfg)}: none of {', '.join(attacks)} has such a row here: leave rows out for all")
    there = {t.run for t in done}
    left = [job for job in jobs if job.run not in there]
    mixed = torch.autocast(  # no casts are kept: those made while pictures are drawn have no gradient
        device.type, torch.bfloat16, enabled=str(cfg.precision) == "bf16-mixed", cache_enabled=False
    )  # fmt: skip
    with mixed:
        announce(cfg, variants, attacks, left, len(jobs), folder, model, device)
        forwards = Forwards()
        forwards.watch(model.denoiser)
        transfers = {variant.name: edited(model, opened[variant.name]) for variant in others}
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} attacks"),
            TimeRemainingColumn(), console=console, transient=True,
        )  # fmt: skip
        with bar as progress:
            task = progress.add_task("Attacking", total=len(left))
            for job in left:
                progress.update(task, description=f"{job.rows.concept}: {job.attack}, {job.row}")
                made = same_row(job, attacks, done) or list(
                    attacked(cfg, job, attacks[job.attack][0], folder, forwards, transfers)
                )
                done += made
                if made:
                    tries.write(folder / "tries.csv", done)
                progress.advance(task)
        grids.leave(folder, {(job.variant.name, job.rows.concept): job.rows for job in jobs}, done)
    wanted = {job.run for job in jobs}
    counted = [t for t in done if t.run in wanted or (t.run[:4] + (EDIT,) + t.run[5:]) in wanted]
    found = figuring.figures(counted)
    metrics = {
        "command": command, "model": cfg.model.name, "model_hash": base_hash, "budget": cfg.budget, "seeds": cfg.seeds,
        "pictures": cfg.pictures, "sampling": look_of(cfg),
        "control": " and ".join(dict.fromkeys(job.rows.control for job in jobs)),
        "judge": world.record()["judge"], "attacks": {name: settings for name, (_, settings) in attacks.items()},
        "edits": {v.name: {"path": v.path, "concept": list(v.concepts), "record": v.record} for v in variants},
        "denoiser_rows": forwards.rows, "seconds": round(time.perf_counter() - started, 1), "figures": found,
    }  # fmt: skip
    write_json(folder / "metrics.json", metrics)
    tries.prompts(folder / "adversarial_prompts.csv", counted)
    tables.leave(folder, found, metrics)
    for variant in variants:  # where the model card looks for it
        own = [line for line in found if line["variant"] == variant.name]
        run_folder = Path(variant.path).expanduser()
        run_folder = run_folder if run_folder.is_dir() else run_folder.parent
        if (run_folder / "metrics.json").is_file() and any(EDIT in line for line in own):
            write_json(run_folder / "attack.json", {"headline": tables.headline(own), "command": command, "figures": own})
    if cfg.log:
        from esd.attack.wandb_log import log

        log(cfg, metrics, folder)
    return found, folder


def same_row(job: Job, attacks: dict, done: list[Try]) -> list[Try]:
    """This job's tries where another edit's job has made them: of a row that has nothing of the edit."""
    if job.alike(attacks) == job.run:
        return []
    there = [t for t in done if t.run[1:] == job.run[1:]]
    return [replace(t, edit=job.variant.name) for t in there if t.edit == there[0].edit]


def matching(variant: Variant, model, base_hash: str) -> Edit:
    """The edit. Raises UserError where it was made for other weights, or does not fit."""
    made_for = variant.record.get("base_hash")
    if made_for and made_for != base_hash:
        raise UserError(f"edit={variant.path} was made for other weights ({made_for[:8]}, not {base_hash[:8]}): name its model")
    edit = read_edit(variant.path, variant.allow_pickle)
    check_edit(model.denoiser, edit)
    return whole(edit, dict(model.denoiser.named_parameters()))


def check_twin(cfg: DictConfig) -> None:
    """Raises UserError for a twin that is no model, before one is loaded."""
    if cfg.twin not in (None, "auto"):
        try:
            models.folder_of(one_text(cfg.twin, "twin"))
        except UserError as error:
            raise UserError(str(error).replace("model.path=", "twin=", 1)) from error


def twin_of(cfg: DictConfig, model):
    """The model that never learnt the concept. Raises UserError for one of another shape, or of another latent space."""
    embedded = cfg.model.name == "emoji" and cfg.model.path is None
    if cfg.twin is None or (cfg.twin == "auto" and not embedded):
        return None
    twin = models.load(str(models.EMOJI_TWIN) if cfg.twin == "auto" else cfg.twin, "twin")
    shapes = [{name: p.shape for name, p in m.denoiser.named_parameters()} for m in (model, twin)]
    if shapes[0] != shapes[1]:
        raise UserError(f"twin={cfg.twin} is of other weights than model={cfg.model.name}: give one of the same architecture")
    if fingerprint(twin.base.vae) != fingerprint(model.base.vae):
        raise UserError(f"twin={cfg.twin} has another autoencoder than model={cfg.model.name}: their latents can't be compared")
    return twin


def require(name: str, its, model, prompts: list[str]) -> None:
    """Raises UserError for an attack that the family cannot have, or has no room for beside one of these prompts."""
    from esd.models import text

    if "vocabulary" in its.needs:
        text.vocabulary(model)
    if "noise" in its.needs:
        ddim_of(model, its.steps)
    wanted = getattr(its, "tokens", None) or getattr(its, "vectors", None)
    for beside in prompts if getattr(its, "named", False) else [getattr(its, "prompt", "")]:
        if wanted and wanted > (room := text.free_tokens(model, beside)):
            said = f" beside '{beside}'" if beside else ""
            raise UserError(f"attack={name} wants {wanted} tokens, and the text encoder of {model.name} holds {room}{said}")


def folder_of(cfg: DictConfig, variants: list[Variant], base_hash: str) -> Path:
    """One folder for these edits on this model: a repeated command goes on in it."""
    value = hashlib.sha256(" ".join([base_hash, *(variant.name for variant in variants)]).encode()).hexdigest()[:8]
    first = variants[0].name + (f"-and-{len(variants) - 1}-more" if len(variants) > 1 else "")
    return Path(cfg.out or f"outputs/attack/{slug(first, 60)}-{value}").expanduser()


def announce(cfg, variants, attacks, left: list[Job], total: int, folder: Path, model, device) -> None:
    """What will be done, how long it takes, and where it goes, before it is done."""
    what = "; ".join(f"{variant.title}" for variant in variants)
    rows = 0.0
    for job in {job.alike(attacks): job for job in left}.values():
        its = attacks[job.attack][0]
        pictures = picture_count(cfg, its, job.row)
        rows += its.forwards() + 2 * cfg.sampling_steps * pictures * its.finds
    console.print(f"[bold]Attack[/]   {what}", soft_wrap=True)
    console.print(f"[bold]With[/]     {', '.join(attacks)}; budget {cfg.budget}, {cfg.seeds} seeds", soft_wrap=True)
    console.print(
        f"[bold]Runs[/]     {len(left)} to do, {total - len(left)} there already; "
        f"roughly {duration(rows * seconds_a_row(model, device))} on {device}",
        soft_wrap=True,
    )
    console.print(f"[bold]Results[/]  {folder}", soft_wrap=True, markup=True)


def duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


@torch.no_grad()
def seconds_a_row(model, device) -> float:
    """Of one latent through the denoiser, in a batch, after a first that warms up."""
    n = 16
    sampler, position = model.sampler(10).to(device), torch.zeros(n, dtype=torch.int64, device=device)
    condition = {name: tensor.expand(n, *tensor.shape[1:]) for name, tensor in model.encode([""], device).items()}
    x = model.noise(range(n)).to(device)
    for _ in range(2):
        started = time.perf_counter()
        model.predict(model.denoiser, sampler.scaled(x, position), sampler.timesteps[position], condition).sum().item()
        one = time.perf_counter() - started
    return one / n


def picture_count(cfg: DictConfig, its, row: str) -> int:
    """Pictures of each find: fewer for the ceilings, whose rates are far from the edge."""
    wanted = min(its.draws or cfg.pictures, cfg.pictures)
    return wanted if row in (EDIT, NEVER) else max(1, wanted // CEILING)


def attacked(cfg: DictConfig, job: Job, its, folder: Path, forwards: Forwards, transfers: dict) -> Iterator[Try]:
    """All tries of one call of an attack; the denoiser under attack is the same afterwards."""
    row = job.rows.build(job.row, its, job.seed)
    if row.target.denoiser is not row.target.base.denoiser:
        forwards.watch(row.target.denoiser)
    seeds = noises(picture_count(cfg, its, job.row))
    number = -1
    for number, found in enumerate(its.find(row.target, job.seed)):
        targets: dict[str, nn.Module | None] = {job.row: None}
        if job.row == EDIT and found.transfers:
            targets |= {f"against {name}": denoiser for name, denoiser in transfers.items()}
        for name, denoiser in targets.items():
            pictures = found.draw(seeds, denoiser)
            if not pictures.isfinite().all():
                raise UserError(f"attack={job.attack} on {job.row} drew pictures that are not finite: lower its lr")
            seen = row.sees(pictures)
            file = f"pictures/{slug(f'{job.variant.name}-{job.rows.concept}-{job.attack}-{name}', 90)}-{job.seed}-{number}.png"
            save_picture(to_image(torch.cat(tuple(pictures[:8]), dim=2)), folder / file)
            for noise, shown in zip(seeds, seen.tolist(), strict=True):
                yield Try(
                    job.variant.name, job.rows.concept, job.attack, job.settings, name, row.about, job.seed, found.steps, noise,
                    row.target.prompt, found.text, "" if found.loss is None else f"{found.loss:.6g}", cfg.model.name,
                    int(shown), file,
                )  # fmt: skip
    if number < 0:
        console.print(f"{job.attack} has nothing to try on '{job.rows.concept}', {job.row}", markup=False)
