"""python -m esd.studies attack: what attacks bring back of erased concepts, beside what they teach a model that never knew.

Erases each concept by ESD-x, by the default (its keys and values alone, its neighbours spared), by ESD-u
(experiment=emoji/esd-u), as the runs of `studies objects` did where they are there, and with an adversary
(experiment=emoji/harder-to-invert, which takes ten times as long). Attacks a concept's edits by one call of python -m
esd.attack, a concept on each core, and pools the tries of a rule. `concept=a,b`, `rules=kv,esd-u` and `erasures=0,1,2` (their
seeds; 0) choose; further arguments go to esd.attack (seeds=3, attacks=all, …).

A repeated command goes on where it was, in outputs/studies/attack. What is measured is kept, an edit a line, in
outputs/gallery/attack-tries.jsonl, and the table in outputs/gallery/attack.json is of all lines there: so the study can be
made in parts, on several machines.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from esd.files import atomic_write, read_json, slug
from esd.metrics.counts import format_figure, rate_figure
from esd.studies import attack_curves, attack_tries

FOLDER = Path("outputs/studies/attack")
CONCEPTS = (
    "pizza", "owl", "guitar", "rocket", "cactus", "camera", "crab", "house", "weapon", "nudity", "noto", "twemoji",
)  # fmt: skip
RULES = {  # by the layers that are trained
    "esd-x": ("layers=esd-x",), "kv": (), "esd-u": ("experiment=emoji/esd-u",),
    "esd-all": ("experiment=emoji/harder-to-invert",),
}  # fmt: skip
TEXT = """The attacks on each concept, erased by ESD-x, by the default (kv: keys and values alone, neighbours spared), by \
ESD-u, and with an adversary (esd-all: `experiment=emoji/harder-to-invert`); what a rule was tried on stands below. *Seen* \
is what the attack brings back. *Never learnt* is the same attack, with the same prompts and noises, on the twin, which was \
never shown the concept: what is seen there was taught. (Of styles there is no twin: there it is emoji that the model was \
never shown, which says less.) *Excess* is the difference, in points. An attack is believed where it passed its check: on \
the base model without the concept's name, or on a third of the edit. *Kept object* is another object under the same \
attack: what does not come back there is damage."""
KEEPING = threading.Lock()  # the file of tries is written by one at a time


def run_command(command: list[str], log: Path) -> int:
    """A command on a core of its own, what it prints in a file. Returns its exit code."""
    with log.open("a", encoding="utf-8") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, "-m", *command], stdout=file, stderr=file, env=environment).returncode


def erased(concept: str, rule: str, seed: int) -> Path:
    """The folder of the run that erased, or will erase, a concept by a rule: one of `studies objects` where there is one."""
    names = [f"objects-seed-{seed}", *(["objects"] if seed == 0 else [])]
    for file in sorted(file for name in names for file in FOLDER.parent.glob(f"{name}/*/metrics.json")):
        record = read_json(file)["record"]
        if (record["concept"], record["layers"], record["seed"]) == ([concept], rule, seed):
            return file.parent
    return FOLDER / slug(concept) / f"{rule}-{seed}"


def erased_and_attacked(concept: str, rules: list[str], erasures: list[int], options: list[str]) -> str:
    """Trains what is not there of a concept's edits, attacks them, and keeps the tries. Returns what went wrong, or nothing."""
    from esd.attack import tries

    folder = FOLDER / slug(concept)
    folder.mkdir(parents=True, exist_ok=True)
    runs = {erased(concept, rule, seed): (rule, seed) for rule in rules for seed in erasures}
    for run, (rule, seed) in runs.items():
        if not (run / "metrics.json").is_file():
            told = [*RULES[rule], f"seed={seed}", "logger=none", "grid=0", f"hydra.run.dir='{run}'"]
            if run_command(["esd.train", f"concept={concept}", *told], folder / "log.txt"):
                return f"{concept} by {rule}: {folder / 'log.txt'} says what went wrong"
    edits = f"edit=[{','.join(map(str, runs))}]"
    if run_command(["esd.attack", edits, f"out={folder / 'attacks'}", *options], folder / "log.txt"):
        return f"{concept}: {folder / 'log.txt'} says what went wrong"
    metrics, found = read_json(folder / "attacks/metrics.json"), tries.read(folder / "attacks/tries.csv")
    name_of = {edit["path"]: name for name, edit in metrics["edits"].items()}
    lines = [attack_tries.line_of(run, seed, metrics, name_of[str(run)], found) for run, (_, seed) in runs.items()]
    with KEEPING:
        attack_tries.keep(lines)
    return ""


def spared(lines: list[dict], rule: str) -> str:
    """What the verdicts of a rule's runs say together, in a line."""
    its, said = [line for line in lines if line["rule"] == rule], []
    for group, name in attack_tries.GROUPS.items():
        if counts := [line["verdict"][group] for line in its if group in line["verdict"]]:
            said.append(f"{name} {format_figure(rate_figure(*map(sum, zip(*counts, strict=True))))}")
    said.append(f"trained in {sum(line['seconds'] for line in its) / len(its):.0f} s on one core")
    concepts, erasures = (sorted({line[name] for line in its}) for name in ("concept", "erasure"))
    of = f"{', '.join(concepts)}; erasure seeds {', '.join(map(str, erasures))}"
    return f"{rule} before any attack, by the short protocol, of {of}: {'; '.join(said)}."


def pooled(lines: list[dict]) -> list[dict]:
    """The figures of all tries, a rule's together (of styles apart: they have another control)."""
    from esd.attack import figures
    from esd.emoji.subject import subject

    apart = {line["concept"]: "" if subject(line["concept"]).objects else ", styles" for line in lines}
    found = [replace(t, edit=t.edit + apart[t.concept]) for line in lines for t in attack_tries.tries_of(line)]
    rows = [row for row in figures.figures(found) if "edit" in row]
    order, attacks = list(RULES), list(dict.fromkeys(name for line in lines for name in line["settings"]))

    def place(row: dict) -> tuple:
        rule, _, styles = row["variant"].partition(",")
        return styles, attacks.index(row["attack"]), row["steps"], order.index(rule)

    return sorted(rows, key=place)


def main(further: list[str]) -> int:
    """Erase, attack, print, and leave the table. Returns the exit code."""
    from esd.models.quiet import silence_libraries

    silence_libraries()
    from rich.console import Console
    from rich.progress import track

    from esd.attack import tables
    from esd.report.result import GALLERY, write_result

    asked = {key: value.split(",") for key, _, value in (argument.partition("=") for argument in further)}
    concepts, rules = asked.get("concept", list(CONCEPTS)), asked.get("rules", list(RULES))
    if unknown := [rule for rule in rules if rule not in RULES]:
        print(f"rules={unknown[0]}: there are {', '.join(RULES)}", file=sys.stderr)
        return 2
    erasures = asked.get("erasures", ["0"])
    if unknown := [seed for seed in erasures if not seed.isdecimal()]:
        print(f"erasures={unknown[0]} is no seed: whole numbers, divided by commas", file=sys.stderr)
        return 2
    options = [argument for argument in further if not argument.startswith(("concept=", "rules=", "erasures="))]
    console, cores = Console(highlight=False, stderr=True), os.cpu_count() or 1
    console.print(
        f"{len(concepts)} concepts by {len(rules)} rules with {len(erasures)} seeds, {min(cores, len(concepts))} at a time, "
        f"about five minutes of a core for each edit; everything goes to {FOLDER}, the tries to {attack_tries.FILE}"
    )
    with ThreadPoolExecutor(cores) as pool:
        made = pool.map(lambda it: erased_and_attacked(it, rules, [int(seed) for seed in erasures], options), concepts)
        wrong = list(track(made, "Attacking", len(concepts), console=console))
    if wrong := [it for it in wrong if it]:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    lines = attack_tries.read()
    found = pooled(lines)
    rows = [[line["variant"], *tables.cells(line)] for line in found]
    for row in (("rule", *tables.HEAD), ["---"] * (1 + len(tables.HEAD)), *rows):
        print(f"| {' | '.join(row)} |")
    here = attack_tries.stamp()
    others = sorted({line["concept"] for line in lines if line["code"] != here["code"]})
    of = sorted({len(its) for line in lines for cell, its in line["tries"].items() if cell.split()[1] == "edit"})
    seeds = len({cell.split()[2] for line in lines for cell in line["tries"]})
    notes = [
        *(spared(lines, rule) for rule in RULES if any(line["rule"] == rule for line in lines)),
        f"{' or '.join(map(str, of))} pictures a find (half of that for check and kept object), {seeds} attack seed(s), drawn "
        "as the protocol draws. Intervals: Wilson's; of the excess Student's t over concepts. Every try is in "
        f"[{attack_tries.FILE.name}]({attack_tries.FILE.name}), with the commit and the machine of each edit.",
        *([f"Measured by former code of the attacks, and not again since: {', '.join(others)}."] if others else []),
    ]
    erasures = sorted({line["erasure"] for line in lines})
    typed = ["python", "-m", "esd.studies", "attack", *([f"erasures={','.join(map(str, erasures))}"] if any(erasures) else [])]
    with atomic_write(GALLERY / "attack.svg") as temporary:
        temporary.write_text(attack_curves.drawn(found), encoding="utf-8")
    write_result(
        "attack", title="Under attack", text=TEXT, command=shlex.join([*typed, *options]),
        columns=["rule", *tables.HEAD], rows=rows, notes=notes, makers=attack_tries.MAKERS,
        pictures=[["attack.svg", "what comes back over an attack's steps"]],
    )  # fmt: skip
    return 0
