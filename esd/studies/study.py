"""The studies' tables: which runs stand in a line, which figures are shown, and what is drawn beside a run's own verdict."""

from __future__ import annotations

import json
from pathlib import Path

from esd.files import write_json
from esd.metrics.counts import format_interval, lost, rate_figure

ALL = ("erased", "erased_styled", "erased_words", "lookalikes", "kept", "kept_styles")
CLOSER = ("erased", "erased_styled", "lookalikes", "kept", "kept_styled")
STUDIES = {  # what stands side by side, what tells the lines apart (runs alike in both are pooled), and the figures shown
    "objects": ("layers", "concept", ALL),
    "default": ("layers", "concept", ALL),
    "eta": ("layers", "eta", ("erased", "erased_styled", "lookalikes", "kept")),
    "preserve": ("concept", "preserve_weight", ("erased", "lookalikes", "kept")),
    "many": ("layers", "concepts", CLOSER),
}
IN_ROWS = ("objects", "default", "many")  # too many figures to stand side by side
OBJECTS = "all objects"
WORDS = {  # title and text on the results page
    "objects": ("Eight objects, two styles, two categories", "Each erased by ESD-x, by the default (kv: only the keys and "
                "values of what reads the text, each step kept out of what other prompts' texts share with the concept's), and "
                "by ESD-u as `experiment=emoji/esd-u` has it; short protocol. The default's settings were chosen "
                "on cat, bus, banana, trumpet, vehicle and fluent, those of ESD-x and ESD-u also on camera. Of each object "
                "three look-alikes: the nearest by the judge's features and the text encoder's. Lost: seen so much less often "
                "than in the base model's pictures that the intervals lie apart."),
    "default": ("The default, by the long protocol", "Sixteen objects, two styles and two categories that nothing was chosen "
                "on, with no option but the concept; three seeds, or what the command says. We ask: seen by name and in a "
                "style at most 1 % (styles 5), in other words at most 5 %; look-alikes down by at most 5 points, others by at "
                "most 1.5."),
    "eta": ("How far η pushes", "Pizza and owl, pooled."),
    "preserve": ("What preserving buys", "`preserve=` adds the distance between student and teacher on other prompts to the "
                 "loss. ESD-u at a strong η of 3, over the weight (0: without); look-alikes are the three nearest objects."),
    "many": ("Many concepts in one run", "1, 4, 16 and 40 of the 85 objects in one run by the default, whose steps grow with "
             "their number. In a style no prompt is among those that are spared. We ask: at 16 seen by name at most 2 % and in "
             "a style 3, others down by at most 1 point and in a style 3; at 40 seen at most 3 %, others down by at most 3."),
}  # fmt: skip
GROUPS = {
    "erased": "seen, by name", "erased_styled": "seen, in a style", "erased_words": "seen, in other words",
    "lookalikes": "look-alikes right", "kept": "others right", "kept_styled": "others right, in a style",
    "kept_styles": "other styles right",
}  # fmt: skip


def closer_rows(study: str, concepts: list[str]) -> list:
    """The rows that a study judges beside the run's own verdict."""
    from esd.emoji import words
    from esd.emoji.subject import Subject
    from esd.protocols.emoji import ask

    if study != "many":
        return []
    left = {noun: Subject(frozenset([noun])) for noun in words.OBJECTS if noun not in concepts}
    bare = [row for noun, it in left.items() for row in ask(words.with_article(noun), 3, kept=it)]  # the verdict has one each
    held_out = set(words.held_out_pairs())
    pairs = [(noun, style) for noun in left for style in words.STYLES if (noun, style) not in held_out]
    return bare + [  # in a style no prompt was preserved: does what was learnt on "a cat" reach these?
        row for noun, style in pairs[::3] for row in ask(words.styled_phrases(noun, style)[0], 1, kept_styled=left[noun])
    ]


class Judge:
    """Draws and judges the rows of a closer look."""

    def __init__(self, model):
        self.model = model

    def look(self, run: Path, study: str, concepts: list[str]) -> dict:
        """{"base": figures, "edit": figures}, kept in the run's folder for as long as its edit is the same."""
        from esd.erasing.edit import Edit, apply_edit, read_edit
        from esd.models.hashes import tensor_hash
        from esd.protocols.emoji import draw, draw_base, measure_pictures

        rows = closer_rows(study, concepts)
        if not rows:
            return {"base": {}, "edit": {}}
        edit, file = read_edit(run), run / "closer.json"
        found = json.loads(file.read_text()) if file.is_file() else {}
        if found.get("edit_sha256") == (value := tensor_hash(edit.tensors)):
            return found
        before = draw_base(self.model, rows)
        replaced = apply_edit(self.model.denoiser, edit)
        after = draw(self.model, self.model.denoiser, rows)
        apply_edit(self.model.denoiser, Edit(replaced))
        figures = {"base": measure_pictures(rows, before), "edit": measure_pictures(rows, after, before)}
        write_json(file, {"edit_sha256": value, **figures})
        return figures


def table_of(study: str, runs: list[dict]) -> list[dict]:
    """The lines: runs that are alike pooled, their counts added; where concepts have lines, also one of all objects."""
    from esd.emoji import words

    by, lines = STUDIES[study][:2], {}
    for run in runs:
        record = run["record"]
        facts = record | {
            "concept": ", ".join(record["concept"]), "concepts": len(record["concept"]),
            "preserve_weight": record["preserve_weight"] if record["preserve"] else 0,
        }  # fmt: skip
        keys = {tuple((name, facts[name]) for name in by)}
        if by[1] == "concept" and facts["concept"] in words.OBJECTS:
            keys.add(tuple((name, facts[name] if name != "concept" else OBJECTS) for name in by))
        for key in keys:
            lines.setdefault(key, []).append(run)
    made = []
    for key in sorted(lines, key=lambda key: [(value == OBJECTS, value) for _, value in key]):
        figures = {
            group: {
                when: rate_figure(*(sum(run[when][group][part] for run in lines[key]) for part in ("hits", "of")))
                for when in ("base", "edit")
            }
            for group in GROUPS
            if all(group in run["edit"] for run in lines[key])
        }
        seconds = sum(run["training_seconds"] for run in lines[key]) / len(lines[key])
        made.append({**dict(key), "runs": len(lines[key]), "seconds": seconds, **figures, "lost": lost_in(lines[key])})
    return made


def lost_in(runs: list[dict]) -> list[dict]:
    """What was lost by the counts of these runs together; of runs with different concepts each for itself."""
    pooled: dict[str, dict] = {}
    for run in runs:
        its = pooled.setdefault(", ".join(run["record"]["concept"]), {"base": {}, "edit": {}})
        for when, groups in its.items():
            for group, figure in run[when].items():
                each = groups.setdefault(group, {"each": {}})["each"]
                for name, (hits, of) in figure.get("each", {}).items():
                    before = each.get(name, (0, 0))
                    each[name] = [before[0] + hits, before[1] + of]
    return [{"concept": concept, **it} for concept, its in pooled.items() for it in lost(its["base"], its["edit"])]


def format_cell(line: dict, group: str) -> str:
    """Before → after, with the 95 % interval of what came after."""
    if group not in line:
        return ""
    before, after = line[group]["base"], line[group]["edit"]
    return f"{100 * before['rate']:.0f} → {100 * after['rate']:.1f} % ({format_interval(after)}) of {after['of']}"


def lost_cell(line: dict) -> str:
    """What was lost, by name; of all concepts together how many."""
    names = list(dict.fromkeys(it["name"] for it in line["lost"]))
    return f"{len(line['lost'])} in {line['runs']} runs" if line.get("concept") == OBJECTS else ", ".join(names) or "none"


def cells_of(line: dict, groups: list[str]) -> list[str]:
    """A line's figures, and what was lost where look-alikes are counted."""
    return [*(format_cell(line, group) for group in groups), *([lost_cell(line)] if "lookalikes" in groups else [])]


def columns_and_rows(study: str, lines: list[dict]) -> tuple[list[str], list[list[str]]]:
    """The table that is shown; the rest of the figures is in table.json."""
    beside, along, shown = STUDIES[study]
    groups = [group for group in shown if any(group in line for line in lines)]
    named = [*(GROUPS[group] for group in groups), *(["lost"] if "lookalikes" in groups else [])]
    if study in IN_ROWS:
        rows = [[line[beside], str(line[along]), *cells_of(line, groups), f"{line['seconds']:.0f} s"] for line in lines]
        return [beside, along, *named, "training"], rows
    columns = sorted({line[beside] for line in lines}, reverse=beside == "layers")
    rows: dict[object, dict[object, dict]] = {}
    for line in lines:
        rows.setdefault(line[along], {})[line[beside]] = line
    head = [along.replace("_", " "), *(f"{name} {what}" for name in columns for what in named)]
    body = []
    for name, found in sorted(rows.items()):
        cells = [str(name)]
        for column in columns:
            cells += cells_of(found[column], groups) if column in found else [""] * len(named)
        body.append(cells)
    return head, body


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """As Markdown."""
    print(f"\n| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
