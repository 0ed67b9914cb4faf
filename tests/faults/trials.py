"""One fault, tried once on a real run: what it was, whether it struck, and whether anything was lost or wrong."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from harness import NO_FILE, Server

STEPS, EVERY = 6, 2
SMALL = (
    f"steps={STEPS}",
    f"checkpoint_every={EVERY}",
    "sampling_steps=4",
    "batch=2",
    "evaluate=false",
    "logger=none",
    "lr=1e-3",
)
CASES = {
    "student, adam": ("concept=pizza", "trajectories=student"),
    "pool by θ*, adamw, two concepts": ("concept=pizza,cat", "trajectories.walker=frozen", "optimizer=adamw", "robust.share=1"),
    "pool by θ, sgd, cosine, preserve": (
        "concept=owl", "optimizer=sgd", "schedule=cosine", "preserve=[a car,a house]",
    ),
    "cache, adam, two concepts, preserve": (
        "concept=pizza,cat", "trajectories=cache", "trajectories.walks=3", "trajectories.chunk=2", "preserve=a car",
    ),
    "cache, sgd, erase_from, closed form": (
        "concept=pizza", "erase_from=food", "optimizer=sgd", "trajectories=cache", "trajectories.walks=3",
        "trajectories.chunk=2", "closed_form=10",
    ),
    "pool by θ, adam, templates, 32 bits": ("concept=pizza", "templates=['{}','a photo of {}']", "model.precision=32-true"),
}  # fmt: skip
PHASES = {  # a kill is tried as often in each of these, however long each takes
    "during a step": ("step",),
    "checkpoint write": ("checkpoint",),
    "cache roll-out": ("roll-out", "cache file"),
    "export": ("edit", "metrics", "grid"),
    "anywhere else": ("drawing", "options", "folder"),
}


@dataclass
class Outcome:
    fault: str  # which, and after a comma where
    struck: bool = True  # False: the run had ended before, or the case has no such moment; not counted
    lost: str = ""  # what is gone, or "": nothing
    wrong: str = ""
    said: list[str] = field(default_factory=list)


@dataclass
class Straight:
    """A run that nothing happened to."""

    arguments: tuple[str, ...]
    edit: bytes
    events: list[str]
    seconds: float
    kilobytes: float  # that it left on the disk
    curve: dict[str, str] = field(default_factory=dict)  # the loss by step, where it was logged


def run_folder(cwd: Path) -> Path | None:
    found = sorted((cwd / "outputs" / "train").glob("*/*"))
    return found[0] if found else None


def newest_step(folder: Path) -> int:
    return max([int(path.stem.partition("=")[2]) for path in folder.glob("checkpoints/step=*.ckpt")], default=0)


def curve_of(folder: Path) -> dict[str, str]:
    """The loss by step, from metrics.csv."""
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return {row["step"]: row["train/loss"] for row in rows if row.get("train/loss")}


def wandb_ids(folder: Path) -> set[str]:
    from offline import records

    files = list(folder.glob("wandb/offline-run-*/*.wandb"))
    return {record.run.run_id for file in files for record in records(file) if record.HasField("run")}


class Faults:
    """The cases, run straight once each, and the faults tried on them. Everything drawn comes from the seed."""

    def __init__(self, server: Server, model: Path, folder: Path, seed: int = 0):
        self.server, self.model, self.folder, self.seed = server, model, folder, seed
        self.known: dict[str, Straight] = {}
        self.count = 0

    def place(self) -> Path:
        self.count += 1
        return self.folder / str(self.count)

    def arguments(self, case: str) -> tuple[str, ...]:
        return (*CASES[case], f"model.path={self.model}", *SMALL)

    def straight(self, case: str) -> Straight:
        if case not in self.known:
            cwd = self.place()
            done = self.server.run(cwd, *self.arguments(case))
            assert done["code"] == 0, done["err"][-2000:]
            edit = (run_folder(cwd) / "edit.safetensors").read_bytes()
            size = sum(path.stat().st_size for path in cwd.rglob("*") if path.is_file()) / 1024
            self.known[case] = Straight(self.arguments(case), edit, done["events"], done["seconds"], size)
        return self.known[case]

    def go_on(self, cwd: Path, **request) -> dict:
        """resume=, or the run anew where it was struck before its options were written down."""
        folder = run_folder(cwd)
        if folder is None or not (folder / ".hydra" / "overrides.yaml").is_file():
            shutil.rmtree(cwd / "outputs" / "train", ignore_errors=True)
            return self.server.run(cwd, *request.pop("anew"), **request)
        request.pop("anew")
        return self.server.run(cwd, f"resume={folder.relative_to(cwd)}", **request)

    def verdict(self, outcome: Outcome, cwd: Path, straight: Straight, done: dict, had: int) -> Outcome:
        """After the run went on: the same file, nothing done twice that was kept, nothing left lying about."""
        folder = run_folder(cwd)
        file = folder / "edit.safetensors" if folder else None
        if done["code"] != 0 or file is None or not file.is_file():
            outcome.lost = f"exit {done['code']}: {done['err'].strip()[-300:]}"
        elif done["steps"] > STEPS - had:
            outcome.lost = f"{done['steps']} steps again, with a checkpoint at {had} of {STEPS}"
        elif file.read_bytes() != straight.edit:
            outcome.wrong = "the edit is another"
        elif left := [str(path.relative_to(cwd)) for path in cwd.rglob(".partial-*")]:
            outcome.wrong = f"left behind: {', '.join(left)}"
        elif len(kept := list(folder.glob("checkpoints/*"))) != 2:
            outcome.wrong = f"{len(kept)} checkpoints kept"
        if not (outcome.lost or outcome.wrong):
            shutil.rmtree(cwd)
        return outcome

    def killed(self, number: int) -> Outcome:
        """kill -9 number `number`: at an event of a phase, in every fifth by the clock; half of them are killed again."""
        rng = random.Random(f"{self.seed} {number}")
        case = list(CASES)[number % len(CASES)]
        straight = self.straight(case)
        cwd = self.place()
        if number % 5 == 4:
            fault, kill = "kill -9, by the clock", {"after": rng.uniform(0.05, 1) * straight.seconds}
        else:
            moments = {
                phase: [n for n, label in enumerate(straight.events) if label in labels] for phase, labels in PHASES.items()
            }
            phase = rng.choice([phase for phase, events in moments.items() if events])
            fault, kill = f"kill -9, {phase}", {"event": rng.choice(moments[phase]), "cut": rng.random()}
        done = self.server.run(cwd, *straight.arguments, kill=kill)
        outcome = Outcome(fault, struck=done["code"] == -signal.SIGKILL, said=[case, str(kill)])
        if not outcome.struck and done["code"] != 0:
            outcome.lost = f"exit {done['code']} instead of a kill: {done['err'].strip()[-300:]}"
            return outcome
        had = newest_step(folder) if (folder := run_folder(cwd)) else 0
        if rng.random() < 0.5:
            again = {"event": rng.randrange(len(straight.events)), "cut": rng.random()}
            done = self.go_on(cwd, anew=straight.arguments, kill=again)
            if done["code"] not in (0, -signal.SIGKILL):
                outcome.lost = f"exit {done['code']}: {done['err'].strip()[-300:]}"
                return outcome
            had = newest_step(folder) if (folder := run_folder(cwd)) else 0
        done = self.go_on(cwd, anew=straight.arguments)
        return self.verdict(outcome, cwd, straight, done, had)

    def signalled(self, number: int) -> Outcome:
        """SIGINT, SIGTERM or SIGUSR1 at any event."""
        rng = random.Random(f"{self.seed} signal {number}")
        case = list(CASES)[number % len(CASES)]
        signum = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)[number % 3]
        straight = self.straight(case)
        cwd = self.place()
        labels = ("step",) if number % 2 else tuple({*straight.events} - {"folder"})
        event = rng.choice([n for n, label in enumerate(straight.events) if label in labels])
        done = self.server.run(cwd, *straight.arguments, signal={"event": event, "number": signum})
        outcome = Outcome(
            f"signal, {signal.Signals(signum).name} {'during a step' if number % 2 else 'anywhere'}", said=[case, str(event)]
        )
        lines = done["err"].strip().splitlines()
        had, what = newest_step(run_folder(cwd)), straight.events[event]
        if done["code"] == 0 and what in ("edit", "metrics") and not lines:
            outcome.struck = False  # too late to stop anything
        elif done["code"] != 128 + signum or len(lines) != 1 or "resume=" not in lines[0]:
            outcome.wrong = f"exit {done['code']} at {what}, said {lines}"
        elif what == "step" and had != done["steps"]:
            outcome.lost = f"{done['steps']} steps were done, the checkpoint is of {had}"
        if outcome.wrong or outcome.lost:
            return outcome
        return self.verdict(outcome, cwd, straight, self.go_on(cwd, anew=straight.arguments), had)

    def judged(self) -> Path:
        """The folder of a finished run with a verdict, made once."""
        cwd = self.folder / "judged"
        if not cwd.is_dir():
            its = ("concept=pizza", "steps=2", "sampling_steps=3", "batch=2", "grid=0", "trainer=cpu")  # the judge's own model
            done = self.server.run(cwd, *its, "logger=csv", watch=False)
            assert done["code"] == 0, done["err"][-2000:]
        return cwd

    def resumed(self, number: int) -> Outcome:
        """What a run had written stays or grows: a finished one's verdict, a struck one's curve and W&B run."""
        rng = random.Random(f"{self.seed} resumed {number}")
        cwd = self.place()
        if number % 3 == 0:
            shutil.copytree(self.judged(), cwd)
            folder = run_folder(cwd)
            before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
            asked = rng.sample(["evaluate=false", "logger=none", "grid_every=1", "checkpoint_every=1", "objective=kept"], 2)
            done = self.server.run(cwd, f"resume={folder}", *asked)
            outcome = Outcome("resume, verdict", said=asked)
            changed = [path.name for path, content in before.items() if path.read_bytes() != content]
            if done["code"] != 0 or done["steps"] or changed:
                outcome.lost = f"exit {done['code']}, {done['steps']} steps, changed {changed}: {done['err'].strip()[-300:]}"
            return outcome
        logged = ("trainer.log_every_n_steps=2", f"logger={'wandb' if number % 3 == 1 else 'csv'}")
        arguments = (*self.arguments("student, adam"), *logged)
        straight = self.known.get(logged[1]) or self.curve(arguments, logged[1])
        event = rng.choice([n for n, label in enumerate(straight.events) if label == "step"])
        strike = rng.choice([{"kill": {"event": event}}, {"signal": {"event": event, "number": signal.SIGTERM}}])
        self.server.run(cwd, *arguments, **strike)
        outcome = Outcome("resume, curve" if number % 3 == 2 else "resume, W&B run", said=[str(strike)])
        done = self.go_on(cwd, anew=arguments)
        folder = run_folder(cwd)
        if done["code"] != 0:
            outcome.lost = f"exit {done['code']}: {done['err'].strip()[-300:]}"
        elif curve_of(folder) != straight.curve:
            outcome.lost = f"rows {sorted(curve_of(folder))} of {sorted(straight.curve)}, or other values"
        elif number % 3 == 1 and len(ids := wandb_ids(folder)) != 1:
            outcome.lost = f"W&B ids {ids}"
        return outcome

    def curve(self, arguments: tuple[str, ...], name: str) -> Straight:
        cwd = self.place()
        done = self.server.run(cwd, *arguments)
        assert done["code"] == 0, done["err"][-2000:]
        self.known[name] = Straight(arguments, b"", done["events"], done["seconds"], 0, curve_of(run_folder(cwd)))
        return self.known[name]

    def full_disk(self, number: int) -> Outcome:
        """No space left from some write on: on a disk that really is full where we may mount one, else by injected errors."""
        rng = random.Random(f"{self.seed} disk {number}")
        case = list(CASES)[number % len(CASES)]
        straight = self.straight(case)
        disk = self.place()
        disk.mkdir()
        cwd = disk / "run"
        real = number % 2 == 0 and mounted(disk, straight.kilobytes * rng.uniform(0.1, 0.95))
        try:
            if real:
                fail = {}
            else:
                fail = {"fail": {"event": rng.choice([n for n, label in enumerate(straight.events) if label not in NO_FILE])}}
            done = self.server.run(cwd, *straight.arguments, **fail)
            outcome = Outcome("full disk, a real one" if real else "full disk, injected errors", said=[case, str(fail)])
            lines = done["err"].strip().splitlines()
            if done["code"] == 0 and not lines:
                outcome.struck = False
            elif done["code"] != 2 or len(lines) != 1 or "o space left" not in lines[0]:
                outcome.wrong = f"exit {done['code']}, said {lines[-4:]}"
            if real:
                subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
            if outcome.struck and not outcome.wrong:
                folder = run_folder(cwd)
                had = newest_step(folder) if folder else 0
                outcome = self.verdict(outcome, cwd, straight, self.go_on(cwd, anew=straight.arguments), had)
            return outcome
        finally:
            if real:
                subprocess.run(["umount", str(disk)], check=True)

    def damaged(self, number: int) -> Outcome:
        """A file cut short, emptied, or with a bit flipped, at each read: a checkpoint, the cache, an edit."""
        rng = random.Random(f"{self.seed} damage {number}")
        what = ("checkpoint", "cache", "edit")[number % 3]
        how = ("cut short", "bit flipped", "emptied")[number // 3 % 3]
        case = rng.choice([case for case in CASES if what != "cache" or "cache" in case])
        straight = self.straight(case)
        cwd = self.place()
        last = [n for n, label in enumerate(straight.events) if label == "step"][-1]
        done = self.server.run(cwd, *straight.arguments, kill=None if what == "edit" else {"event": last})
        folder = run_folder(cwd)
        names = {"checkpoint": f"checkpoints/step={newest_step(folder)}.ckpt", "edit": "edit.safetensors"}
        file = rng.choice(sorted(cwd.glob("outputs/cache/*.safetensors"))) if what == "cache" else folder / names[what]
        content = bytearray(file.read_bytes())
        if how == "cut short":
            content = content[: rng.randrange(1, len(content))]
        elif how == "emptied":
            content = b""
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        outcome = Outcome(f"damaged file, {what} {how}", said=[case, str(number)])
        if what == "edit":
            asked = (f"edit={folder.relative_to(cwd)}", "prompt=a pizza", f"model.path={self.model}", "sampling_steps=2")
            done = self.server.run(cwd, *asked, command="sample")
            lines = done["err"].strip().splitlines()
            if done["code"] != 2 or len(lines) != 1 or "damaged or cut short" not in lines[0]:
                outcome.wrong = f"exit {done['code']}, said {lines[-4:]}"
            return outcome
        had = newest_step(folder) - (EVERY if what == "checkpoint" else 0)
        return self.verdict(outcome, cwd, straight, self.go_on(cwd, anew=straight.arguments), had)

    def not_finite(self, number: int) -> Outcome:
        """A learning rate that bursts: one line, and no checkpoint that is not finite."""
        case = list(CASES)[number % len(CASES)]
        cwd = self.place()
        done = self.server.run(cwd, *self.arguments(case), "checkpoint_every=1", f"lr={('1e10', '1e19', '1e30')[number % 3]}")
        outcome = Outcome("loss or weights not finite", said=[case])
        lines = done["err"].strip().splitlines()
        if done["code"] != 2 or len(lines) != 1 or "not finite" not in lines[0]:
            outcome.wrong = f"exit {done['code']}, said {lines[-4:]}"
        for path in run_folder(cwd).glob("checkpoints/*"):
            if not all(tensor.isfinite().all() for tensor in torch.load(path, weights_only=True)["state_dict"].values()):
                outcome.wrong = f"{path.name} is not finite"
        if list(cwd.rglob("edit.safetensors")):
            outcome.wrong = "an edit was saved"
        return outcome

    def out_of_memory(self, number: int) -> Outcome:
        case = list(CASES)[number % len(CASES)]
        done = self.server.run(self.place(), *self.arguments(case), "batch=10000", memory=0.3)
        outcome = Outcome("out of memory", said=[case])
        lines = done["err"].strip().splitlines()
        if done["code"] != 2 or len(lines) != 1 or "out of memory: lower batch (now 10000)" not in lines[0]:
            outcome.wrong = f"exit {done['code']}, said {lines[-4:]}"
        return outcome


def mounted(folder: Path, kilobytes: float) -> bool:
    """Whether a disk of this size could be mounted there."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={int(kilobytes)}k", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0
