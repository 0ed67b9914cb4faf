"""Every try of an attack, as a line of tries.csv: what was found, from which noise, and whether it was seen.

A cell is all that one `Found` gave: (edit, concept, attack, row, seed, steps). It is written whole or not at all; a repeated
command goes on after the cells that are there, of the same settings.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from esd.files import atomic_write

NEVER, KEPT, CHECK, EDIT = "never", "kept", "check", "edit"  # the rows: esd/attack/rows.py
ROWS = (EDIT, NEVER, CHECK, KEPT)


@dataclass(frozen=True)
class Try:
    edit: str
    concept: str
    attack: str
    settings: str  # a hash of all that the attack's result depends on
    row: str
    about: str  # what was looked for: the concept, or a control's
    seed: int
    steps: int
    noise: int
    prompt: str
    adversarial_prompt: str
    loss: str
    judge: str
    seen: int
    picture: str

    @property
    def run(self) -> tuple:
        """What one call of an attack is told apart by."""
        return self.edit, self.concept, self.attack, self.settings, self.row, self.seed


def read(file: Path) -> list[Try]:
    """The tries so far; none where there is no such file."""
    if not file.is_file():
        return []
    kinds = {field.name: field.type for field in fields(Try)}
    with open(file, encoding="utf-8", newline="") as lines:
        return [Try(**{k: int(v) if kinds[k] == "int" else v for k, v in line.items()}) for line in csv.DictReader(lines)]


def write(file: Path, tries: Iterable[Try]) -> None:
    with atomic_write(file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, [field.name for field in fields(Try)])
        writer.writeheader()
        writer.writerows(map(asdict, tries))


def prompts(file: Path, tries: Iterable[Try]) -> None:
    """The adversarial words found on edits, each once: the CSV with `adversarial_prompt` that eval-unlearn reads."""
    found = {
        (t.concept, t.attack, t.prompt, t.adversarial_prompt): t for t in tries if t.row == "edit" and t.adversarial_prompt
    }
    with atomic_write(file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["concept", "attack", "prompt", "adversarial_prompt", "evaluation_seed"])
        writer.writerows([*key, seen.noise] for key, seen in found.items())
