"""python -m esd.studies attack: what attacks bring back of erased concepts, beside what they teach a model that never knew.

Erases each concept by ESD-x, by the default (its keys and values alone, its neighbours spared), by ESD-u
(experiment=emoji/esd-u), as the runs of `studies objects` did where they are there, and the first two with an adversary too
(experiment=emoji/harder-to-invert). Attacks a concept's edits by one call of python -m esd.attack, a concept on each core, and
pools the tries of a rule. `concept=a,b` and `rules=kv,esd-u` choose; further arguments go to esd.attack (seeds=3, attacks=all,
…). Goes on where it was, in outputs/studies/attack; the table is left in outputs/gallery/attack.json.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from esd.files import read_json, slug
from esd.metrics.counts import format_figure, rate_figure

FOLDER = Path("outputs/studies/attack")
CONCEPTS = (
    "pizza", "owl", "guitar", "rocket", "cactus", "camera", "crab", "house", "weapon", "nudity", "noto", "twemoji",
)  # fmt: skip
RULES = {  # by the layers that are trained
    "esd-x": ("layers=esd-x",), "kv": (), "esd-u": ("experiment=emoji/esd-u",),
    "esd-all": ("experiment=emoji/harder-to-invert",),
}  # fmt: skip
FEW = {"esd-all": 2}  # rules of which so many concepts are erased: an adversary takes ten times as long
SPARED = {"erased": "seen by name", "lookalikes": "look-alikes right", "kept": "others right"}


def run(command: list[str], log: Path) -> int:
    """A command on a core of its own, what it prints in a file. Returns its exit code."""
    with log.open("a", encoding="utf-8") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, "-m", *command], stdout=file, stderr=file, env=environment).returncode


def erased(concept: str, rule: str) -> Path:
    """The folder of the run that erased, or will erase, a concept by a rule: one of `studies objects` where there is one."""
    for file in sorted(file for name in ("objects", "objects-seed-0") for file in FOLDER.parent.glob(f"{name}/*/metrics.json")):
        record = read_json(file)["record"]
        if (record["concept"], record["layers"], record["seed"]) == ([concept], rule, 0):
            return file.parent
    return FOLDER / slug(concept) / rule


def erased_and_attacked(concept: str, rules: list[str], options: list[str]) -> str:
    """Trains what is not there of a concept's edits, and attacks them. Returns what went wrong, or nothing."""
    folder = FOLDER / slug(concept)
    folder.mkdir(parents=True, exist_ok=True)
    for rule in rules:
        if not ((its := erased(concept, rule)) / "metrics.json").is_file():
            told = [*RULES[rule], "logger=none", "grid=0", f"hydra.run.dir='{its}'"]
            if run(["esd.train", f"concept={concept}", *told], folder / "log.txt"):
                return f"{concept} by {rule}: {folder / 'log.txt'} says what went wrong"
    edits = f"edit=[{','.join(str(erased(concept, rule)) for rule in rules)}]"
    failed = run(["esd.attack", edits, f"out={folder / 'attacks'}", *options], folder / "log.txt")
    return f"{concept}: {folder / 'log.txt'} says what went wrong" if failed else ""


def spared(concepts: list[str], rule: str) -> str:
    """What the verdicts of a rule's runs say together, in a line."""
    runs = [read_json(erased(concept, rule) / "metrics.json") for concept in concepts]
    said = []
    for group, name in SPARED.items():
        its = [run["edit"][group] for run in runs if group in run["edit"]]
        said.append(f"{name} {format_figure(rate_figure(*(sum(it[part] for it in its) for part in ('hits', 'of'))))}")
    seconds = sum(run["training_seconds"] for run in runs) / len(runs)
    said.append(f"trained in {seconds:.0f} s on one core")
    return f"{rule} before any attack, of {len(runs)} concepts by the short protocol: {'; '.join(said)}."


def pooled(concepts: list[str], wanted: list[str]) -> tuple[list[dict], dict]:
    """The lines of all tries, a rule's together (of styles apart: they have another control), and one concept's metrics."""
    from esd.attack import figures, tries
    from esd.emoji.subject import subject

    found, metrics = [], {}
    for concept in concepts:
        folder = FOLDER / slug(concept) / "attacks"
        metrics = read_json(folder / "metrics.json")
        apart = "" if subject(concept).objects else ", styles"
        rules = {name: edit["record"]["layers"] + apart for name, edit in metrics["edits"].items()}
        rules = {name: rule for name, rule in rules.items() if rule.partition(",")[0] in wanted}
        its = [t for t in tries.read(folder / "tries.csv") if t.edit in rules and t.attack in metrics["attacks"]]
        found += [replace(t, edit=rules[t.edit]) for t in its]
    lines = [line for line in figures.figures(found) if "edit" in line]
    order, attacks = list(RULES), list(metrics["attacks"])
    lines.sort(
        key=lambda line: (
            "styles" in line["variant"], attacks.index(line["attack"]), line["steps"],
            order.index(line["variant"].partition(",")[0]),
        )
    )  # fmt: skip
    return lines, metrics


def main(further: list[str]) -> int:
    """Erase, attack, print, and leave the table. Returns the exit code."""
    from esd.models.quiet import silence_libraries

    silence_libraries()
    from rich.console import Console
    from rich.progress import track

    from esd.attack import tables
    from esd.report.result import write_result

    asked = {key: value.split(",") for key, _, value in (argument.partition("=") for argument in further)}
    concepts, rules = asked.get("concept", list(CONCEPTS)), asked.get("rules", list(RULES))
    if unknown := [rule for rule in rules if rule not in RULES]:
        print(f"rules={unknown[0]}: there are {', '.join(RULES)}", file=sys.stderr)
        return 2
    by_concept = {it: [rule for rule in rules if n < FEW.get(rule, len(concepts))] for n, it in enumerate(concepts)}
    options = [argument for argument in further if not argument.startswith(("concept=", "rules="))]
    console, cores = Console(highlight=False, stderr=True), os.cpu_count() or 1
    console.print(
        f"{len(concepts)} concepts by {len(rules)} rules, {min(cores, len(concepts))} at a time, about a quarter of an hour of "
        f"a core each; everything goes to {FOLDER}"
    )
    with ThreadPoolExecutor(cores) as pool:
        made = pool.map(lambda it: erased_and_attacked(it, by_concept[it], options), concepts)
        wrong = list(track(made, "Attacking", len(concepts), console=console))
    if wrong := [it for it in wrong if it]:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    lines, metrics = pooled(concepts, rules)
    rows = [[line["variant"], *tables.cells(line)] for line in lines]
    for row in (("rule", *tables.HEAD), ["---"] * (1 + len(tables.HEAD)), *rows):
        print(f"| {' | '.join(row)} |")
    text = (
        f"The attacks on {', '.join(concepts)}, each erased by ESD-x, by the default (kv: keys and values alone, neighbours "
        "spared), by ESD-u, and the first two with an adversary (esd-all: `experiment=emoji/harder-to-invert`); one erasure "
        "seed. *Seen* is what the attack brings back. *Never learnt* is the same attack, with the same prompts and noises, on "
        "the twin, which was never shown the concept: what is seen there was taught. (Of styles there is no twin: there it is "
        "emoji that the model was never shown, which says less.) *Excess* is the "
        "difference, in points. An attack is believed where it passed its check: on the base model without the concept's "
        "name, or on a third of the edit. *Kept object* is another object under the same attack: what does not come back "
        "there is damage."
    )
    notes = [
        *(spared([it for it in concepts if rule in by_concept[it]], rule) for rule in rules),
        f"{metrics['pictures']} pictures a find (half of that for check and kept object), {metrics['seeds']} attack seed(s), "
        "drawn as the protocol draws. Intervals: Wilson's; of the excess Student's t over concepts.",
    ]
    write_result(
        "attack", title="Under attack", text=text, command=shlex.join(["python", "-m", "esd.studies", "attack", *further]),
        columns=["rule", *tables.HEAD], rows=rows, notes=notes, makers=["esd/attack", "esd/studies/attack.py"],
    )  # fmt: skip
    return 0
