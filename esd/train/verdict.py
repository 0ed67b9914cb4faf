"""The end of a run: the judge's verdict on base and edit, and what to do next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, WandbLogger
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from esd import UserError
from esd.command.progress import progress
from esd.command.words import command_line, text_option
from esd.erasing.concepts import Concept
from esd.metrics.clip import CLIP
from esd.metrics.counts import damage, figure_value, format_figure, format_lost, lost
from esd.models.family import Model
from esd.protocols import Row, emoji
from esd.protocols import concept as concept_protocol
from esd.protocols.base_pictures import BasePictures, in_bytes, made_with
from esd.sample.sampling import sample
from esd.train.record import own_folders

NAMED, EVERYDAY, ALIKE = 12, 24, 2  # not of the embedded model: by name, in scenes, in templates; the rest; each look-alike


class Verdict:
    """A protocol, in a run's end mostly its short form, on the base model and on the student, from the same noise.

    protocol: of esd.protocols; steps, sampler: of its pictures; of: what they depend on (made_with). The base model's are
    drawn where they are not kept on disk. preserved: prompts that the run preserves.
    """

    def __init__(
        self, protocol, steps: int, sampler: str, asked: tuple[list[str], list[str]], of: dict, preserved: list[str]
    ):  # fmt: skip
        self.protocol, self.steps, self.sampler, self.rows, self.of = protocol, steps, sampler, protocol.rows(*asked), of
        self.trained_on = sum(row.group == "kept" and row.prompt in preserved for row in self.rows)
        self.unique = list({row.file: row for row in self.rows}.values())
        self.whole = isinstance(protocol, emoji.Emoji) and protocol.kept == emoji.LONG["kept"]
        self.store = BasePictures()

    @property
    def pictures(self) -> int:
        """How many are still to be drawn, of base and edit together."""
        return 2 * len(self.unique) - self.store.count(self.unique, self.of)

    def draw(self, model: Model, denoiser: nn.Module, rows: Sequence[Row], done: Callable[[float], None]) -> Tensor:
        """Their pictures (n, 3, H, W) in [0, 1]."""
        return sample(
            model, denoiser, [row.prompt for row in rows], [row.seed for row in rows], steps=self.steps,
            sampler=self.sampler, guidance=rows[0].guidance, done=done,
        )  # fmt: skip

    def measure(self, images: Tensor, base: Tensor, device: torch.device) -> dict[str, dict]:
        place = {row.file: i for i, row in enumerate(self.unique)}

        def batches(size: int = 32) -> Iterator[tuple]:
            for i in range(0, len(self.rows), size):
                rows = self.rows[i : i + size]
                index = [place[row.file] for row in rows]
                yield rows, images[index].to(device) / 255, base[index].to(device) / 255

        return self.protocol.measure(batches())

    def give(self, model: Model, student: nn.Module, console: Console) -> dict:
        """The figures of base and edit, with all that they depend on."""
        started, device = time.perf_counter(), next(student.parameters()).device
        self.protocol.ready(device)
        with progress(console, "pictures") as bar:
            task = bar.add_task("Drawing, to be judged", total=2 * len(self.unique))

            def done(n: float) -> None:
                bar.advance(task, n)

            teacher = model.denoiser.to(device)
            base = self.store.get(self.unique, self.of, lambda rows: self.draw(model, teacher, rows, done), done)
            after = in_bytes(self.draw(model, student, self.unique, done))
        with console.status("Judging"):
            figures = {"base": self.measure(base, base, device), "edit": self.measure(after, base, device)}
        if self.trained_on:
            figures["edit"]["kept"]["preserved"] = self.trained_on
        return {
            "protocol": self.protocol.name if self.whole else f"{self.protocol.name}-short",
            "protocol_version": self.protocol.version,
            "judge": self.protocol.record(),
            "sampling": {"steps": self.steps, "sampler": self.sampler, "guidance": self.unique[0].guidance},
            **figures,
            "lost": lost(figures["base"], figures["edit"]),
            "judging_seconds": round(time.perf_counter() - started, 2),
        }


Short = emoji.Emoji | concept_protocol.Concept


def short_protocol(cfg: DictConfig, concepts: list[Concept]) -> Short | str | None:
    """What judges this run at its end; a text that says why nothing will; None where no verdict is wanted. Told within seconds,
    from the options and whether the judge's weights can be had: none are loaded yet."""
    if not cfg.evaluate:
        return None
    if cfg.model.name == "emoji":
        from esd.emoji.subject import names_anything

        if nameless := [concept.text for concept in concepts if not names_anything(concept.text)]:  # found, not typed
            return f"'{nameless[0]}' names no object and no style that the judge knows"
        counts = emoji.LONG if cfg.evaluate == "long" else emoji.SHORT
        few = {"pictures": max(3, counts["pictures"] // len(concepts))}
        return emoji.Emoji(**counts | few, guidance=emoji.GUIDANCE, seed=0)
    short = concept_protocol.Concept(
        max(3, NAMED // len(concepts)), EVERYDAY, "auto", ALIKE, list(cfg.templates), [], CLIP,
        cfg.model.get("picture_guidance", 7.5), seed=0,
    )  # fmt: skip
    try:
        short.find()
    except UserError as error:
        return str(error)
    return short


def verdict_of(
    short: Short | str | None, concepts: list[Concept], kept: list[Concept], model: Model, device: torch.device
) -> Verdict | str | None:
    """The verdict to be given at the end of this run, or what there is instead (short_protocol). Asked in the precision and
    while the text encoders are there that the pictures will be drawn with."""
    if not isinstance(short, Short):
        return short
    asked = [concept.text for concept in concepts], [concept.erase_from for concept in concepts]
    steps, sampler = (emoji.STEPS, emoji.SAMPLER) if isinstance(short, emoji.Emoji) else (30, "own")
    of = made_with(model, f"{short.name} {short.version}", steps, device, sampler)
    return Verdict(short, steps, sampler, asked, of, [concept.text for concept in kept])


def check_objective(cfg: DictConfig, short: Short | str | None) -> None:
    """Raises UserError where a search would have nothing to go by: no run of it would be judged."""
    hydra = HydraConfig.get()
    searches = hydra.mode == RunMode.MULTIRUN and not hydra.sweeper["_target_"].endswith(".BasicSweeper")
    if searches and not isinstance(short, Short):
        raise UserError(
            f"a search needs objective={cfg.objective} of every run, and none would be judged: {short or 'evaluate=false'}"
        )


def check_curve(cfg: DictConfig, short: Short | str | None) -> None:
    """Raises UserError where there is nobody to look at a curve's pictures."""
    if cfg.curve_every and not isinstance(short, Short):
        raise UserError(f"curve_every={cfg.curve_every} needs a judge, and there is none: {short or 'evaluate=false'}")


def objective(metrics: dict, wanted: str) -> float:
    """One number for a sweeper, larger is better; NaN where nothing was judged.

    erased: 1 − the rate at which the concept is seen, by name and in styles. kept: the mean of two rates, of look-alikes right
    and of other objects right, so that three look-alikes weigh as much as the eighty others: one that is lost costs a sixth
    (the others' rate alone where a concept has no look-alikes, as a style). kept-erased: kept + erased − 1.
    """
    if "edit" not in metrics:
        return math.nan
    seen = [figure for group, figure in metrics["edit"].items() if group.startswith("erased")]
    erased = 1 - sum(count["hits"] for count in seen) / sum(count["of"] for count in seen)
    rates = [metrics["edit"][group]["rate"] for group in ("lookalikes", "kept") if group in metrics["edit"]]
    kept = sum(rates) / len(rates)
    return {"erased": erased, "kept": kept, "kept-erased": kept - (1 - erased)}[wanted]


def model_options() -> list[str]:
    """The options that name this run's model in the next command; none where it is the embedded one of this package."""
    hydra = HydraConfig.get()
    named = [] if (chosen := hydra.runtime.choices["model"]) == "emoji" else [f"model={chosen}"]
    return own_folders() + named + [o for o in hydra.overrides.task if o.startswith(("model.path=", "model.prediction="))]


def print_verdict(metrics: dict, labels: dict[str, str], folder: Path, concept: str, console: Console) -> None:
    """The table, or why there is none; the pictures' path, and the next command to type."""
    edit = text_option("edit", folder / "edit.safetensors")
    if "edit" in metrics:
        table = Table("by the judge", "before", "after", box=None, header_style="dim")
        for group, label in labels.items():
            if group in metrics["edit"]:
                table.add_row(label, format_figure(metrics["base"][group]), f"[bold]{format_figure(metrics['edit'][group])}[/]")
        console.print(table)
        if line := damage(metrics["base"], metrics["edit"]):
            console.print(f"[bold]{escape(line)}[/]" if metrics["lost"] else escape(line), soft_wrap=True)
        if trained_on := metrics["edit"]["kept"].get("preserved"):
            of = metrics["edit"]["kept"]["of"]
            console.print(f"Of the {of} pictures of other prompts {trained_on} are of prompts that were preserved in training.")
        if doubt := doubtful(metrics["base"]):
            console.print(f"warning: {doubt}", style="yellow", soft_wrap=True, markup=False)
    elif "not_judged" in metrics:
        later = command_line("esd.evaluate", edit, *model_options(), "protocol=concept")
        console.print(f"Not judged: {metrics['not_judged']}. Then: {later}", soft_wrap=True, markup=False)
    grid = f" Before and after: {folder / 'grid.png'}" if (folder / "grid.png").is_file() else ""
    following = command_line("esd.sample", edit, text_option("prompt", concept), *model_options())
    stopped = f", stopped {metrics['stopped']}" if "stopped" in metrics else ""
    said = f"Trained in {metrics['training_seconds']:.1f} s{stopped}.{grid}\nNext: {following}"
    console.print(said, soft_wrap=True, markup=False)


def doubtful(base: dict[str, dict]) -> str:
    """What is to be said of a judge that is often wrong on the base model's own pictures; "" of a good one."""
    if "told" not in base or base["told"]["rate"] >= 0.8:
        return ""
    return f"the judge is right on {format_figure(base['told'])} of the base model's own pictures: its verdict says little"


KEYS = {
    "erased": "erased/seen", "erased_styled": "erased/seen_styled", "kept_source": "kept/source",
    "erased_words": "erased/seen_words",
    "erased_scene": "erased/seen_scene", "erased_templates": "erased/seen_templates", "by_name": "erased/by_name",
    "told": "judge/right",
    "kept": "kept/objects", "kept_styles": "kept/styles", "kept_distance": "kept/distance", "kept_pixels": "kept/pixels",
}  # fmt: skip


def wandb_keys(base: dict, edit: dict) -> dict[str, float]:
    """The figures as W&B's keys: `erased/…` and `kept/…`, the base model's rates beside them as `…_base`."""
    values = {KEYS.get(name, f"kept/{name}"): figure_value(figure) for name, figure in edit.items()}
    values |= {
        f"{KEYS.get(name, f'kept/{name}')}_base": figure_value(figure) for name, figure in base.items() if "rate" in figure
    }
    return {key: value for key, value in values.items() if value is not None}


def log_verdict(metrics: dict, loggers: list[Logger], folder: Path) -> None:
    """The verdict as summary values, and the edit as an artifact."""
    values = {"train/seconds": metrics["training_seconds"]}
    if "edit" in metrics:
        values |= wandb_keys(metrics["base"], metrics["edit"]) | {"kept/lost": len(metrics["lost"])}
        values["score"] = objective(metrics, "kept-erased")
    for logger in loggers:
        logger.log_metrics(values, metrics["steps"])
        logger.save()
        if isinstance(logger, WandbLogger):
            import wandb

            if "edit" in metrics:
                logger.experiment.summary["lost"] = format_lost(metrics["lost"])
            artifact = wandb.Artifact(f"edit-{folder.name}", type="edit")
            artifact.add_file(str(folder / "edit.safetensors"))
            logger.experiment.log_artifact(artifact)
