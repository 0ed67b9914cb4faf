"""What a run notes down of itself: in its edit's header, and of what torch cannot repeat."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from esd import UserError
from esd.command.words import command_line
from esd.erasing.run import Options
from esd.files import read_json
from esd.train.build import options_of
from esd.train.resume import edit_options, named


def record_of(cfg: DictConfig, options: Options, base_hash: str, devices: int, not_read: dict[str, str]) -> dict:
    """All that an edit depends on, for its header, each once; nothing else, so that a run that was interrupted leaves the
    same file."""
    asked = OmegaConf.to_container(cfg, resolve=True)
    typed = edit_options(HydraConfig.get().overrides.task, devices, bool(cfg.stop))
    record = options.record(
        base=cfg.model.name if cfg.model.path is None else str(cfg.model.path),
        base_hash=base_hash,
        devices=devices,
        preserve=asked["preserve"],
        optimizer=asked["optimizer"],
        schedule=asked["schedule"],
        precision=str(asked["trainer"]["precision"]),
        deterministic=bool(asked["trainer"].get("deterministic")),
        not_read=not_read,
        command=command_line("esd.train", *own_folders(), *typed),
    )
    if cfg.stop:
        record |= {"stop": cfg.stop, "curve_every": cfg.curve_every}
    if isinstance(listed := asked["preserve"], str) and Path(listed).expanduser().is_file():
        record["preserve_sha256"] = hashlib.sha256(Path(listed).expanduser().read_bytes()).hexdigest()[:16]
    predicts = cfg.model.get("prediction", "auto")
    return record if predicts == "auto" else record | {"prediction": predicts}


def own_folders() -> list[str]:
    """What a run's configuration is composed from beside this package's, as one argument: the same however it was named,
    by --config-dir, by hydra.searchpath, or by a resume, which knows it from the run's own files."""
    ours = ("hydra", "main", "schema")
    its = [source for source in HydraConfig.get().runtime.config_sources if source.provider not in ours]
    if not its:
        return []
    if len(its) == 1 and its[0].schema == "file":
        path = Path(its[0].path)
        return [f"--config-dir={os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path}"]
    return [f"hydra.searchpath=[{','.join(f'{source.schema}://{source.path}' for source in its)}]"]


def changed_entry(before: dict, now: dict, *beside: str) -> str | None:
    """The first entry of a run's record on which the edit depends and which is another now. Not of versions, nor of steps:
    a run may be given more."""
    beside += ("command", "versions", "steps", "deterministic")
    plain = json.loads(json.dumps(now, default=str))  # as it was written
    return next((key for key, value in plain.items() if key not in beside and before.get(key, value) != value), None)


def check_same_run(folder: Path, before: dict, now: dict, *beside: str) -> None:
    """Raises UserError where what the folder's run was begun with is not what it would go on with."""
    if key := changed_entry(before, now, *beside):
        hint = f"give trainer.precision={before[key]}" if key == "precision" else "restore that, or start a new run"
        raise UserError(f"{folder}: {key} was {before[key]} when this run was begun, and is {now[key]} now: {hint}")


def finished_metrics(folder: Path, cfg: DictConfig) -> dict | None:
    """The metrics.json of the run that this folder holds, if it came to its end: then it is not run again. None where it
    did not, or is asked for more steps. Raises UserError where its edit is another than would be made now."""
    try:
        metrics = read_json(folder / "metrics.json")
        before = metrics["record"]
    except (UserError, KeyError):
        return None
    if not (folder / "edit.safetensors").is_file():
        return None
    now = record_of(cfg, options_of(cfg), before.get("base_hash", ""), before.get("devices", 1), before.get("not_read", {}))
    by_the_machine = "precision" if not any(named(o) == "trainer.precision" for o in HydraConfig.get().overrides.task) else ""
    check_same_run(folder, before, now, by_the_machine)
    return metrics if before.get("steps") == cfg.steps else None


def previous_metrics(folder: Path, record: dict) -> dict:
    """What the same run had measured when it last came to its end, without its record: a resume adds to it. A verdict on
    fewer steps is of another edit, and does not count."""
    try:
        metrics = read_json(folder / "metrics.json")
        before = metrics.pop("record")
    except (UserError, KeyError):
        return {}
    if changed_entry(before, record):
        return {}
    kept = ("training_seconds", "not_deterministic")
    return metrics if before.get("steps") == record["steps"] else {key: metrics[key] for key in kept if key in metrics}


@contextmanager
def collect_nondeterministic() -> Iterator[list[str]]:
    """The operations that torch says it has no deterministic algorithm for, collected; other warnings are shown as ever."""
    found: list[str] = []
    shown = warnings.showwarning

    def show(message, *args, **kwargs) -> None:
        text = str(message)
        if "does not have a deterministic implementation" in text:
            found.append(text.split()[0])
        else:
            shown(message, *args, **kwargs)

    warnings.showwarning = show
    try:
        yield found
    finally:
        warnings.showwarning = shown
