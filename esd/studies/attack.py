"""python -m esd.studies attack: what attacks bring back of erased objects, beside what they teach a model that never knew.

Erases each object by ESD-x, by the defaults (its keys and values alone, its neighbours spared), and by ESD-u
(experiment=emoji/esd-u), attacks every edit by one call of python -m esd.attack, and pools the tries of a rule. `concept=a,b`
chooses the objects; further arguments go to esd.attack (seeds=3, attacks=all, …).
Goes on where it was, in outputs/studies/attack; the table is left in outputs/gallery/attack.json.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from esd.files import read_json

FOLDER = Path("outputs/studies/attack")
CONCEPTS = ("pizza", "owl", "guitar", "rocket", "cactus", "camera", "crab", "house")
RULES = {"esd-x": ("layers=esd-x",), "kv": (), "esd-u": ("experiment=emoji/esd-u",)}  # by the layers that are trained


def trained(concept: str, rule: str) -> Path:
    """The run that erases this object by this rule; made where it is not there yet."""
    folder = FOLDER / f"{concept}-{rule}"
    if not (folder / "edit.safetensors").is_file():
        options = [f"concept={concept}", *RULES[rule], "evaluate=false", "logger=none", "grid=0", f"hydra.run.dir='{folder}'"]
        subprocess.run([sys.executable, "-m", "esd.train", *options], check=True)
    return folder


def main(further: list[str]) -> int:
    """Erase, attack, print, and leave the table. Returns the exit code."""
    from esd.models.quiet import silence_libraries

    silence_libraries()
    from esd.attack import figures, tables, tries
    from esd.report.result import write_result

    asked = next((argument.partition("=")[2] for argument in further if argument.startswith("concept=")), "")
    concepts = asked.split(",") if asked else list(CONCEPTS)
    options = [argument for argument in further if not argument.startswith("concept=")]
    runs = {trained(concept, rule): rule for concept in concepts for rule in RULES}
    edits = f"edit=[{','.join(map(str, runs))}]"
    command = [sys.executable, "-m", "esd.attack", edits, f"out={FOLDER / 'attacks'}", *options]
    if code := subprocess.run(command).returncode:
        return code
    metrics = read_json(FOLDER / "attacks/metrics.json")
    rule_of = {name: edit["record"]["layers"] for name, edit in metrics["edits"].items()}
    found = [replace(t, edit=rule_of[t.edit]) for t in tries.read(FOLDER / "attacks/tries.csv") if t.edit in rule_of]
    lines = [line for line in figures.figures(found) if "edit" in line]
    lines.sort(
        key=lambda line: (list(RULES).index(line["variant"]), list(metrics["attacks"]).index(line["attack"]), line["steps"])
    )
    rows = [[line["variant"], *tables.cells(line)] for line in lines]
    for row in (("rule", *tables.HEAD), ["---"] * (1 + len(tables.HEAD)), *rows):
        print(f"| {' | '.join(row)} |")
    typed = " ".join(["python -m esd.studies attack", *further])
    text = (
        f"The quick set of attacks on {', '.join(concepts)}, each erased by ESD-x, by its keys and values alone with the "
        "neighbours spared (kv), and by ESD-u; one erasure seed. *Seen* is what the attack brings back. *Never learnt* is the "
        f"same attack, with the same prompts and noises, on {metrics['control']}: what is seen there was taught. *Excess* is "
        "the difference, in points. An attack is believed where it passed its check: on the base model without the concept's "
        "name, or on a third of the edit. *Kept object* is another object under the same attack: what does not come back there "
        "is damage."
    )
    notes = [
        f"{metrics['pictures']} pictures a find (half of that for check and kept object), {metrics['seeds']} attack seed(s), "
        f"DDIM {metrics['sampling']['steps']}, guidance {metrics['sampling']['guidance']:g}. Intervals: Wilson's; of the "
        "excess a bootstrap over concepts.",
    ]
    write_result(
        "attack", title="Under attack", text=text, command=typed, columns=["rule", *tables.HEAD], rows=rows, notes=notes,
        makers=["esd/attack", "esd/studies/attack.py"],
    )  # fmt: skip
    return 0
