"""python -m esd.bench.by_eye: where the judge and the eye differ, over 300 pictures of the embedded model. A minute.

Draws them (each object without a style twice, then trained pairs) with what was asked and what the judge says, on numbered
sheets in outputs/by-eye. Whoever looks at the sheets writes down in esd/bench/by_eye.json, for the weights that were looked
at, which pictures are wrong to the eye and why; the table sets that beside the judge's verdicts.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from esd.command.entry import ArgumentParser
from esd.models.quiet import silence_libraries

COUNT = 300
RECORD = Path(__file__).with_suffix(".json")


def asked():
    """The rows: 170 of an object without a style, 130 of an object in a style."""
    from esd.emoji import words
    from esd.emoji.subject import Subject
    from esd.protocols.emoji import ask

    rows = [row for noun in words.OBJECTS for row in ask(words.with_article(noun), 2, 1, it=Subject(frozenset([noun])))]
    held_out = set(words.held_out_pairs())
    pairs = [(n, s) for n in words.OBJECTS for s in words.STYLES if (n, s) not in held_out]
    for noun, style in random.Random(0).sample(pairs, COUNT - len(rows)):
        about = Subject(frozenset([noun]), frozenset([style]))
        rows += ask(words.styled_phrases(noun, style)[0], 1, 1, it=about)
    return rows


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.bench.by_eye", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/by-eye"), help="the sheets' folder")
    options = parser.parse_args()
    silence_libraries()
    import torch
    from rich.console import Console

    from esd import models
    from esd.emoji.judge import OBJECT_LABELS, STYLE_LABELS, load_judge
    from esd.metrics.counts import format_figure, rate_figure
    from esd.metrics.emoji import shows_subject
    from esd.protocols.emoji import draw
    from esd.report.result import weights_hash, write_result
    from esd.sample.pictures import grid, save_picture

    console, rows = Console(highlight=False), asked()
    model = models.load(None, "emoji")
    pictures = draw(model, model.denoiser, rows)
    with torch.no_grad():
        objects, styles = (logits.argmax(1) for logits in load_judge()(pictures))
    right = shows_subject(objects, styles, [row.subject for row in rows]).tolist()
    said = [f"{OBJECT_LABELS[o]}, {STYLE_LABELS[s]}" for o, s in zip(objects.tolist(), styles.tolist(), strict=True)]
    options.out.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(rows), 75):
        part = range(first, min(first + 75, len(rows)))
        captions = [
            f"{n}: {rows[n].prompt.replace(' in the style of', ',')}" + ("" if right[n] else f" → {said[n]}") for n in part
        ]
        save_picture(grid([pictures[list(part)]], [""], captions), options.out / f"sheet-{first}.png")
    console.print(f"{len(rows)} pictures, {right.count(False)} wrong to the judge: {options.out}")
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    if record.get("weights") != weights_hash():
        console.print(f"nobody has looked at those of these weights ({weights_hash()}) yet: {RECORD} is to say what is wrong")
        return
    wrong = {int(n): why for n, why in record["wrong to the eye"].items()}
    cells = []
    for judge, eye in ((True, True), (True, False), (False, True), (False, False)):
        these = [n for n in range(len(rows)) if right[n] == judge and (n not in wrong) == eye]
        notes = "; ".join(f"{rows[n].prompt}: {wrong.get(n) or 'judged ' + said[n]}" for n in these) if judge != eye else ""
        words = ["right" if it else "wrong" for it in (judge, eye)]
        cells.append([*words, format_figure(rate_figure(len(these), len(rows))), notes])
    for row in cells:
        console.print(" | ".join(row))
    write_result(
        "by-eye", title="The judge and the eye",
        text=f"{len(rows)} pictures that the embedded model drew, judged, and looked at one by one by {record['looked']}.",
        command="python -m esd.bench.by_eye", columns=["to the judge", "to the eye", "of 300", "which"], rows=cells,
        makers=["esd/bench/by_eye.py", "esd/bench/by_eye.json"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
