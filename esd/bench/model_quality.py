"""python -m esd.bench.model_quality: how well the embedded model draws, by its judge. About five minutes on 2 cores.

Every trained (object, style) pair, every pair that was held out of its training, every object without a style, every
category: each with four noises (a category with sixteen), DDIM 30, guidance 3. Leaves outputs/quality/metrics.json, the
sheet of all objects, outputs/quality/objects.png, and for the results page outputs/gallery/model-quality.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

from esd.models.quiet import silence_libraries
from esd.protocols.emoji import Row, draw, measure_pictures

TEXT = """Every (object, style) pair it was trained on and every one held out, every object without a style: four noises each; \
categories and styles: sixteen. DDIM 30, guidance 3. We ask 98 % of the trained pairs' objects, 95 % of their styles, 98 % of \
objects without a style, 90 % of each category; of the held-out pairs nothing: they show what it composes."""


def main(folder: Path) -> None:
    silence_libraries()
    from PIL import Image
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from esd import models
    from esd.emoji import words
    from esd.emoji.subject import Subject, subject
    from esd.files import write_json
    from esd.metrics.counts import format_figure
    from esd.report.result import write_result
    from esd.sample.pictures import save_picture, to_image

    console = Console(highlight=False)
    model = models.load(None, "emoji")
    held_out = set(words.held_out_pairs())
    groups: dict[str, list[Row]] = {}

    def ask(group: str, prompt: str, wanted: Subject, noises: int) -> None:
        groups.setdefault(group, []).extend(Row(group, prompt, seed, wanted) for seed in range(noises))

    for noun in words.OBJECTS:
        for style in words.STYLES:
            kind = "held-out" if (noun, style) in held_out else "trained"
            ask(kind, words.styled_phrases(noun, style)[0], Subject(frozenset([noun]), frozenset([style])), 4)
        ask("object", words.with_article(noun), Subject(frozenset([noun])), 4)
    for category in filter(None, words.CATEGORIES):
        ask(f"category {category}", words.with_article(category), subject(category), 16)
    for style in words.STYLES:
        ask("style", words.style_phrases(style)[0], subject(style), 16)

    rows = [row for group in groups.values() for row in group]
    console.print(f"{len(rows)} pictures, to {folder}")
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Drawing", total=len(rows))
        pictures = draw(model, model.denoiser, rows, lambda n: progress.advance(task, n))

    def count(group: str, part: str) -> dict:
        """The group's count where only the object, only the style, or both must be right."""
        index = [i for i, row in enumerate(rows) if row.group == group]
        asked = []
        for i in index:
            s = rows[i].subject
            wanted = Subject(s.objects if part != "style" else frozenset(), s.styles if part != "object" else frozenset())
            asked.append(Row("it", rows[i].prompt, rows[i].seed, wanted))
        return measure_pictures(asked, pictures[index])["it"]

    lines = {
        "trained pairs: object right": count("trained", "object"),
        "trained pairs: style right": count("trained", "style"),
        "held-out pairs: object right": count("held-out", "object"),
        "held-out pairs: style right": count("held-out", "style"),
        "held-out pairs: both right": count("held-out", "both"),
        "an object without a style": count("object", "object"),
        "a style without an object": count("style", "style"),
        **{name: count(name, "both") for name in groups if name.startswith("category")},
    }
    columns, cells = ["asked for", "right", "95 % interval"], []
    for name, value in lines.items():
        low, high = value["interval"]
        cells.append([name, format_figure(value), f"{100 * low:.1f} to {100 * high:.1f} %"])
    table = Table(*columns, box=None)
    for row in cells:
        table.add_row(*row)
    console.print(table)
    write_result(
        "model-quality", title="How well the embedded model draws", text=TEXT, command="python -m esd.bench.model_quality",
        columns=columns, rows=cells, makers=["esd/bench/model_quality.py"],
    )  # fmt: skip
    write_json(folder / "metrics.json", lines)

    index = {(row.prompt, row.seed): i for i, row in enumerate(rows)}
    page = Image.new("RGB", (17 * 64, 20 * 64), "white")  # 85 objects in blocks of 17, four styles under each other
    for n, noun in enumerate(words.OBJECTS):
        for s, style in enumerate(words.STYLES):
            picture = pictures[index[words.styled_phrases(noun, style)[0], 0]]
            page.paste(to_image(picture), (n % 17 * 64, (n // 17 * 4 + s) * 64))
    save_picture(page, folder / "objects.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/quality"))
