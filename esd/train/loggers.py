"""Where a run's curves go: Weights & Biases (offline where there is no key), a CSV file, or nowhere."""

from __future__ import annotations

import contextlib
import csv
import functools
import http.client
import netrc
import os
import secrets
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
from pytorch_lightning.loggers import Logger, WandbLogger

from esd.command.checks import texts
from esd.command.signals import Interrupted
from esd.files import atomic_write


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


class MetricsFile(Logger):
    """metrics.csv in the run's folder, from which reports draw curves: a line for each step, whole after every save.

    go_on: keep the lines that are there; a step that is taken again replaces its own.
    """

    name = version = None

    def __init__(self, folder: Path, go_on: bool):
        super().__init__()
        self.file = folder / "metrics.csv"
        self.rows: dict[int, dict[str, object]] = {}
        if go_on and self.file.is_file():
            with open(self.file, encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    step = row.pop("step", None)
                    if step and step.isdigit():
                        self.rows.setdefault(int(step), {}).update({k: v for k, v in row.items() if k and v})

    def log_hyperparams(self, params: object, *args: object) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.setdefault(step or 0, {}).update(metrics)

    def save(self) -> None:
        names = ["step", *sorted({name for row in self.rows.values() for name in row})]
        with atomic_write(self.file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows({"step": step, **row} for step, row in sorted(self.rows.items()))


def build_loggers(cfg: DictConfig, folder: Path) -> list[Logger]:
    """The configured logger, writing to the run's folder; beside W&B's a metrics.csv."""
    if cfg.logger.name == "none":
        return []
    kept = MetricsFile(folder, go_on=bool(cfg.resume))
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
    known = folder / "wandb" / "id"  # of the W&B run, which goes on where the run does
    own = known.read_text(encoding="utf-8").strip() if cfg.resume and known.is_file() else ""
    # Of a sweep's runs each has its own, whatever the environment says, which all of them share.
    single = hydra.mode != RunMode.MULTIRUN and os.environ.get("WANDB_RUN_ID")
    run_id = own or single or secrets.token_hex(4)
    limit = float(os.environ.get("WANDB_FINISH_TIMEOUT", 300))  # seconds; W&B's own variable

    def started(mode: str) -> WandbLogger:
        logger = WandbLogger(
            project=cfg.logger.project,
            name=folder.name,
            id=run_id,
            resume="allow",
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
    # Of a key no more is defined than Lightning's "*" says: a second pattern that fits would race with that one.
    logger.experiment.config.update(config, allow_val_change=True)
    with atomic_write(known) as temporary:
        temporary.write_text(f"{logger.experiment.id}\n", encoding="utf-8")
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


def finish_wandb(loggers: list[Logger], error: BaseException | None = None) -> None:
    """End the W&B run, whatever happened: else the next job of a sweep logs into this one's. error: what ended it early; a
    run that was told to stop may go on, and counts as preempted, not as finished."""
    if any(isinstance(logger, WandbLogger) for logger in loggers):
        import wandb

        with tolerate_upload_errors(loggers):
            if isinstance(error, Interrupted) and wandb.run:
                wandb.run.mark_preempting()
            wandb.finish(exit_code=0 if error is None else error.code if isinstance(error, Interrupted) else 1)
