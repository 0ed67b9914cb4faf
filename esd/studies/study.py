"""python -m esd.studies objects: what an erasure does to the concept and to the rest, as a table.

A study is a sweep of the embedded model, conf/experiment/study/NAME.yaml. This trains what outputs/studies/NAME does not
hold yet, two runs at a time, draws more pictures where the study needs more than a run's own verdict, prints the table and
leaves it as table.json beside the runs. Further arguments go to python -m esd.train, for example hydra/launcher=basic.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from esd.files import write_json
from esd.metrics.counts import format_interval, rate_figure

BY_NAME, CLOSER = ("erased", "erased_styled", "kept"), ("erased", "kept", "kept_styled")
STUDIES = {  # what stands side by side, what tells the lines apart (runs alike in both are pooled), and the figures shown
    "objects": ("layers", "concept", BY_NAME),
    "eta": ("layers", "eta", BY_NAME),
    "preserve": ("concept", "preserve_weight", ("erased", "kept", "twin")),
    "many": ("preserve_weight", "concepts", CLOSER),
    "frontier": ("concepts", "preserve_weight", CLOSER),
}
WORDS = {  # title and text on the results page
    "objects": ("Eight objects, one by one", "Each erased by ESD-x with the defaults, and by ESD-u as `experiment=emoji/esd-u` "
                "has it. Camera was among those that settings were chosen on, pizza and owl partly; the others were not."),
    "eta": ("How far η pushes", "Pizza and owl, pooled."),
    "preserve": ("What preserving buys", "`preserve=` adds the distance between student and teacher on other prompts to the "
                 "loss. ESD-u at a strong η of 3, over the weight (0: without); hammer is axe's look-alike, penguin owl's."),
    "many": ("Many concepts in one run", "1, 4, 16 and 40 of the 85 objects in one run of 600 steps, the rest preserved with "
             "the weight in the heads. In a style nothing was preserved."),
    "frontier": ("40 concepts, over the weight that preserves", "What the weight of `preserve=` buys back of the rest, and "
                 "what it leaves of the concepts."),
}  # fmt: skip
GROUPS = {
    "erased": "seen, by name", "erased_styled": "seen, in a style", "kept": "others right",
    "kept_styled": "others right, in a style", "kept_styles": "other styles right", "twin": "look-alike right",
}  # fmt: skip
LOOK_ALIKES = {"axe": "hammer", "hammer": "axe", "owl": "penguin", "penguin": "owl"}


def closer_rows(study: str, concepts: list[str]) -> list:
    """The rows that a study judges beside the run's own verdict."""
    from esd.emoji import words
    from esd.emoji.subject import Subject
    from esd.protocols.emoji import rows

    if study == "preserve":
        asked = [row for text in concepts for row in rows([LOOK_ALIKES[text]], 24, 0)]
        return [replace(row, group="twin") for row in asked if row.group.startswith("erased")]
    if study not in ("many", "frontier"):
        return []
    bare = [row for row in rows(concepts, 1, 3) if row.group == "kept"]  # instead of the verdict's one of each
    pairs = [(noun, style) for noun in words.OBJECTS if noun not in concepts for style in words.STYLES]
    pairs = [pair for pair in pairs if pair not in set(words.held_out_pairs())][::3]
    return bare + [  # in a style no prompt was preserved: does what was learnt on "a cat" reach these?
        replace(bare[0], group="kept_styled", prompt=words.styled_phrases(noun, style)[0], subject=Subject(frozenset([noun])))
        for noun, style in pairs
    ]


class Judge:
    """Draws and judges the rows of a closer look; the base model's pictures once."""

    def __init__(self, model):
        self.model, self.base = model, {}

    def look(self, run: Path, study: str, concepts: list[str]) -> dict:
        """{"base": figures, "edit": figures}, kept in the run's folder for as long as its edit is the same."""
        import torch

        from esd.edits.edit import Edit, apply_edit, read_edit
        from esd.models.hashes import tensor_hash
        from esd.protocols.emoji import draw, measure_pictures

        rows = closer_rows(study, concepts)
        if not rows:
            return {"base": {}, "edit": {}}
        edit, file = read_edit(run), run / "closer.json"
        found = json.loads(file.read_text()) if file.is_file() else {}
        if found.get("edit_sha256") == (value := tensor_hash(edit.tensors)):
            return found
        if fresh := [row for row in rows if row.file not in self.base]:
            drawn = draw(self.model, self.model.denoiser, fresh)
            self.base |= {row.file: picture for row, picture in zip(fresh, drawn, strict=True)}
        before = torch.stack([self.base[row.file] for row in rows])
        replaced = apply_edit(self.model.denoiser, edit)
        after = draw(self.model, self.model.denoiser, rows)
        apply_edit(self.model.denoiser, Edit(replaced))
        figures = {"base": measure_pictures(rows, before), "edit": measure_pictures(rows, after, before)}
        write_json(file, {"edit_sha256": value, **figures})
        return figures


def table_of(study: str, runs: list[dict]) -> list[dict]:
    """The lines: runs that are alike pooled, their counts added; where concepts have lines, also one of all of them."""
    by, lines = STUDIES[study][:2], {}
    for run in runs:
        record = run["record"]
        facts = record | {
            "concept": ", ".join(record["concept"]), "concepts": len(record["concept"]),
            "preserve_weight": record["preserve_weight"] if record["preserve"] else 0,
        }  # fmt: skip
        keys = {tuple((name, facts[name]) for name in by)}
        if by[1] == "concept":
            keys.add(tuple((name, facts[name] if name != "concept" else "all") for name in by))
        for key in keys:
            lines.setdefault(key, []).append(run)
    made = []
    for key in sorted(lines, key=lambda key: [(value == "all", value) for _, value in key]):
        figures = {
            group: {
                when: rate_figure(*(sum(run[when][group][part] for run in lines[key]) for part in ("hits", "of")))
                for when in ("base", "edit")
            }
            for group in GROUPS
            if all(group in run["edit"] for run in lines[key])
        }
        made.append({**dict(key), "runs": len(lines[key]), **figures})
    return made


def format_cell(line: dict, group: str) -> str:
    """Before → after, with the 95 % interval of what came after."""
    if group not in line:
        return ""
    before, after = line[group]["base"], line[group]["edit"]
    return f"{100 * before['rate']:.0f} → {100 * after['rate']:.1f} % ({format_interval(after)}) of {after['of']}"


def columns_and_rows(study: str, lines: list[dict]) -> tuple[list[str], list[list[str]]]:
    """The table that is shown; the rest of the figures is in table.json."""
    beside, along, shown = STUDIES[study]
    groups = [group for group in shown if any(group in line for line in lines)]
    columns = sorted({line[beside] for line in lines}, reverse=beside == "layers")
    rows: dict[object, dict[object, dict]] = {}
    for line in lines:
        rows.setdefault(line[along], {})[line[beside]] = line
    names = [column if isinstance(column, str) else f"{beside.replace('_', ' ')} {column:g}:" for column in columns]
    head = [along.replace("_", " "), *(f"{name} {GROUPS[group]}" for name in names for group in groups)]
    body = []
    for name, found in sorted(rows.items(), key=lambda row: (row[0] == "all", row[0])):
        cells = [format_cell(found[column], group) if column in found else "" for column in columns for group in groups]
        body.append([str(name), *cells])
    return head, body


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """As Markdown."""
    print(f"\n| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
