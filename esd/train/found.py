"""The text of a concept that is given as pictures alone, found before the run is built."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from pytorch_lightning import Trainer

from esd import UserError
from esd.command.progress import progress
from esd.command.signals import IS_MAIN_PROCESS
from esd.erasing import naming
from esd.erasing.pictures import Pictures
from esd.erasing.trajectories import Trajectories
from esd.files import atomic_write
from esd.models.encoders import text_encoders
from esd.models.family import Model
from esd.models.precision import lent
from esd.train.announcement import console, say
from esd.train.options import FOUND, with_concept


def with_found_text(cfg: DictConfig, model: Model, source: Trajectories, trainer: Trainer, folder: Path) -> DictConfig:
    """The configuration with the text that is found in its pictures, which is left in the run's folder for when it goes on.

    Raises UserError for a source of x_t that takes no pictures.
    """
    if not isinstance(source, Pictures):
        raise UserError(f"trajectories={source.name} takes no pictures, in which a concept could be found: name the concept")
    device = trainer.strategy.root_device
    lends = model.denoiser, *text_encoders(model.base).values()  # gradients pass through both
    with progress(console, "forwards") as bar, lent(device, *lends), trainer.precision_plugin.forward_context():
        task = bar.add_task("Finding its text", total=naming.FORWARDS)
        x_0 = source.read(model)[1].to(device)
        text = naming.text_of(model, x_0, cfg.seed, unnamed(cfg.model.name), lambda n: bar.advance(task, n))
    say("Concept", f"'{text}', found by inversion: the word that says best what {cfg.trajectories.images} shows")
    if IS_MAIN_PROCESS:
        with atomic_write(folder / FOUND) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    return with_concept(cfg, text)


def unnamed(model: str) -> set[str]:
    """Words that name nothing on their own. Of the embedded model those that it knows as a part of a name only."""
    if model != "emoji":
        return set()
    from esd.emoji.words import names

    return {part for name in names() for part in name.split() if " " in name} - set(names())
