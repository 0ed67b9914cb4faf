"""Where a run's curves go: Weights & Biases (offline where there is no key), a CSV file, or nowhere."""

from __future__ import annotations

import contextlib
import functools
import http.client
import netrc
import os
import shlex
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from esd.command.checks import texts


def has_key() -> bool:
    """Whether W&B knows who we are; asked before its logger exists, which would wait for an answer at a terminal."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError, RuntimeError):
        return False


def reachable(seconds: float = 5) -> bool:
    """Whether W&B's server answers at all (through a proxy where one is set): its own client would try for a minute."""
    try:
        urllib.request.urlopen(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"), timeout=seconds).close()
    except urllib.error.HTTPError:  # it answers, if not to this
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def flat_config(cfg: DictConfig) -> dict:
    """The configuration as W&B's panels want it: one level, plain values, the groups by their names."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    named = {key: plain[key]["name"] for key in ("model", "layers", "trajectories")}
    scalars = {key: value for key, value in plain.items() if isinstance(value, str | int | float | bool) or value is None}
    concepts = plain["concept"] if isinstance(plain["concept"], list) else [plain["concept"]]
    optimizer = plain["optimizer"]["_target_"].rsplit(".", 1)[-1]
    return {**scalars, **named, "concept": ", ".join(map(str, concepts)), "optimizer": optimizer}


def build_loggers(cfg: DictConfig, folder: Path) -> list[Logger]:
    """The configured logger, writing to the run's folder; beside W&B's a metrics.csv, from which reports draw curves."""
    if cfg.logger.name == "none":
        return []
    kept = CSVLogger(folder, name="", version="")
    return [kept] if cfg.logger.name == "csv" else [kept, wandb_logger(cfg, folder)]


def home_folder() -> Path:
    """Where the user's files are, also where HOME is not set; a folder for passing things where there is no such place."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir())


@functools.cache  # a sweep says it once, of all its runs
def say_offline(why: str, runs: str, where: TextIO) -> None:
    print(f"Weights & Biases {why}: kept for later, wandb sync {runs}", file=where)


def wandb_logger(cfg: DictConfig, folder: Path) -> WandbLogger:
    """A W&B run: offline where there is no key or no server, and never a question."""
    os.environ.setdefault("HOME", str(home_folder()))  # W&B's other process knows no other way to ask, and complains at length
    import wandb

    hydra = HydraConfig.get()
    group = cfg.logger.group or (Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else None)
    config = flat_config(cfg)
    limit = float(os.environ.get("WANDB_FINISH_TIMEOUT", 300))  # seconds; W&B's own variable

    def started(mode: str) -> WandbLogger:
        logger = WandbLogger(
            project=cfg.logger.project,
            name=folder.name,
            group=group,
            tags=[*dict.fromkeys(text[:60] for text in texts(cfg.concept, "concept")), config["layers"]],
            save_dir=str(folder),
            mode=mode,
            # A server that goes away is tried again behind the training's back; at the end it has five minutes.
            settings=wandb.Settings(
                console="off", silent=True, init_timeout=30, finish_timeout_raises=True, finish_timeout=limit
            ),
        )
        logger._wandb_init.pop("anonymous", None)  # Lightning gives it always, and W&B warns of it
        logger.experiment  # noqa: B018  (it starts the run)
        return logger

    mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    away = mode == "online" and not reachable()
    try:
        logger = started("offline" if away else mode)
    except (wandb.Error, TimeoutError):
        if mode != "online":
            raise
        away, logger = True, started("offline")
    place = shlex.quote(str(folder)) if hydra.mode != RunMode.MULTIRUN else f"{shlex.quote(str(hydra.sweep.dir))}/*"
    if away:
        say_offline("cannot be reached", f"{place}/wandb/offline-run-*", sys.stderr)
    elif mode == "offline":
        why = "is offline (WANDB_MODE)" if os.environ.get("WANDB_MODE") else "has no key here, and is offline"
        say_offline(why, f"{place}/wandb/offline-run-*", sys.stdout)
    logger.experiment.config.update(config)
    for key, summary in (("train/loss", "min"), ("erased/*", "last"), ("kept/*", "last")):
        logger.experiment.define_metric(key, step_metric="trainer/global_step", summary=summary)  # Lightning's name for it
    return logger


@contextlib.contextmanager
def tolerate_upload_errors(loggers: list[Logger]) -> Iterator[None]:
    """What W&B's server does not take is no failure of the run: it lies in the run's folder, and can be sent later."""
    ours = [logger for logger in loggers if isinstance(logger, WandbLogger)]
    if not ours:
        yield
        return
    import wandb

    try:
        yield
    except (wandb.Error, OSError):  # a TimeoutError is an OSError
        left = shlex.quote(str(Path(ours[0].save_dir) / "wandb"))
        print(f"Weights & Biases did not take all: kept for later, wandb sync {left}/run-*", file=sys.stderr)


def finish_wandb(loggers: list[Logger]) -> None:
    """End the W&B run, whatever happened: else the next job of a sweep logs into this one's."""
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        import wandb

        with tolerate_upload_errors(loggers):
            wandb.finish()
