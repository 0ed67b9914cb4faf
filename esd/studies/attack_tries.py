"""What the attacks' study has measured so far, an edit a line: outputs/gallery/attack-tries.jsonl.

The study takes many hours, and its folders do not travel: these lines do, so that it goes on on another machine. A line holds

    rule, concept, erasure   which edit: the layers, what was erased, the seed of the erasure
    weights, code            of the embedded model and its judge; of the files that make the study
    commit, machine          where it was measured
    verdict, seconds         {group: [hits, of]} of the run's own verdict; of its training
    settings                 {attack: its options}
    tries                    {"attack row seed steps": a digit for each noise that was judged, 1 where it was seen}; "steps" is
                             "=12" where it numbers tries, which optimise nothing
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from esd.attack.tries import Try
from esd.files import atomic_write, read_json
from esd.report.result import GALLERY, code_of, machine, weights_hash

FILE = GALLERY / "attack-tries.jsonl"
MAKERS = ["esd/attack", "esd/studies/attack.py"]
# Former code → later code that gives the same tries: of it the lines count as measured. Between these two lie checks of options
# and of what is asked for twice; cactus by kv, attacked again by the later (rows=edit), has the same 192 tries.
SAME_TRIES = {"dd8ac728c5116c8f": "835c9aeb2dcdd623"}
GROUPS = {"erased": "seen by name", "lookalikes": "look-alikes right", "kept": "others right"}


def stamp() -> dict:
    """Of what a line is measured on, here and now."""
    code = code_of(MAKERS)
    its = hashlib.sha256(json.dumps(code["files"], sort_keys=True).encode()).hexdigest()[:16]
    return {"weights": weights_hash(), "code": its, "commit": code["commit"], "machine": machine()}


def line_of(run: Path, erasure: int, attack: dict, name: str, tries: Iterable[Try]) -> dict:
    """The line of an edit: its run's folder, the attack's metrics.json, and its tries, the edit's name there being `name`."""
    metrics = read_json(run / "metrics.json")
    verdict = {group: [metrics["edit"][group][part] for part in ("hits", "of")] for group in GROUPS if group in metrics["edit"]}
    digits: dict[str, list[tuple[int, int]]] = {}
    for t in tries:
        if t.edit == name and t.attack in attack["attacks"]:
            steps = f"{t.steps}" if t.loss else f"={t.steps}"
            digits.setdefault(f"{t.attack} {t.row} {t.seed} {steps}", []).append((t.noise, t.seen))
    return {
        "rule": metrics["record"]["layers"], "concept": metrics["record"]["concept"][0], "erasure": erasure, **stamp(),
        "verdict": verdict, "seconds": metrics["training_seconds"], "settings": attack["attacks"],
        "tries": {cell: "".join(str(seen) for _, seen in sorted(its)) for cell, its in digits.items()},
    }  # fmt: skip


def tries_of(line: dict) -> Iterator[Try]:
    """A line's tries again. Of several erasures of one concept the attack's seeds are told apart."""
    for cell, digits in line["tries"].items():
        attack, row, seed, steps = cell.split(" ")
        for noise, seen in enumerate(digits):
            yield Try(
                edit=line["rule"], concept=line["concept"], attack=attack, settings="", row=row, about="",
                seed=1000 * line["erasure"] + int(seed), steps=int(steps.removeprefix("=")), noise=noise, prompt="",
                adversarial_prompt="", loss="" if steps.startswith("=") else "0", judge="", seen=int(seen), picture="",
            )  # fmt: skip


def read() -> list[dict]:
    """The lines that are of the present weights."""
    if not FILE.is_file():
        return []
    lines = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    lines = [line | {"code": SAME_TRIES.get(line["code"], line["code"])} for line in lines]
    return [line for line in lines if line["weights"] == weights_hash()]


def key(line: dict) -> tuple:
    return line["concept"], line["rule"], line["erasure"]


def keep(new: Iterable[dict]) -> list[dict]:
    """All lines with these, an edit that is there already anew; an attack of its that was not made again, with the same edit
    and options, stays. Returns them."""
    lines = {key(line): line for line in read()}
    for line in new:
        old = lines.get(key(line))
        if old is not None and (old["verdict"], old["code"]) == (line["verdict"], line["code"]):
            line = {**line, **{name: old[name] | line[name] for name in ("settings", "tries")}}
        lines[key(line)] = line
    with atomic_write(FILE) as temporary:
        text = "".join(json.dumps(lines[it], ensure_ascii=False) + "\n" for it in sorted(lines))
        temporary.write_text(text, encoding="utf-8")
    return [lines[it] for it in sorted(lines)]
