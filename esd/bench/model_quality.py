"""python -m esd.bench.model_quality: how well the embedded model draws, by its judge. A quarter of an hour of one core.

Every trained (object, style) pair, every pair that was held out of its training, every object without a style, by its name and
in other words, with four noises each; every category and style with 64; drawn as the protocol draws. `--model emoji-twin`: the
twin, of which what it never learnt (esd/emoji/words.py, STUDIED) is counted apart. Leaves the table in outputs/gallery and in
outputs/quality a sheet of all objects.
"""

from __future__ import annotations

from pathlib import Path

from esd.bench.loop import mixed
from esd.command.entry import ArgumentParser
from esd.models.quiet import silence_libraries
from esd.protocols.emoji import GUIDANCE, SAMPLER, STEPS, Row, draw, measure_pictures

BARS = {
    "trained pairs: object": 98.5, "trained pairs: style": 97, "held-out pairs: both": 30, "an object without a style": 99,
    "an object in other words": 95, "an object in another language": 95,
}  # fmt: skip
CATEGORY_BAR = 90
NEVER = "never learnt: "


def asked(twin: bool) -> list[Row]:
    """Every picture, in its group. Of a twin, groups of what it never learnt have a name of their own."""
    from esd.emoji import words
    from esd.emoji.subject import Subject, subject

    rows: list[Row] = []

    def ask(group: str, prompt: str, wanted: Subject, noises: int) -> None:
        never = twin and wanted.objects and wanted.objects <= set(words.STUDIED)
        rows.extend(Row(NEVER * bool(never) + group, prompt, seed, wanted) for seed in range(noises))

    held_out = set(words.held_out_pairs())
    for noun in words.OBJECTS:
        alone = Subject(frozenset([noun]))
        for style in words.STYLES:
            kind = "held-out pairs" if (noun, style) in held_out else "trained pairs"
            ask(kind, words.styled_phrases(noun, style)[0], Subject(frozenset([noun]), frozenset([style])), 4)
        ask("an object without a style", words.with_article(noun), alone, 4)
        for way in words.OTHER_WORDS[noun]:
            ask("an object in other words", words.with_article(way), alone, 4)
        for way in words.TRANSLATIONS[noun]:
            ask("an object in another language", words.with_article(way), alone, 4)
    for category in filter(None, words.CATEGORIES):
        ask(f"category {category}", words.with_article(category), subject(category), 64)
        for way in words.OTHER_WORDS[category]:
            ask("a category in other words", words.with_article(way), subject(category), 16)
    for style in words.STYLES:
        ask(f"style {style}", words.style_phrases(style)[0], subject(style), 64)
    return rows


def counts(rows: list[Row], pictures) -> dict[str, dict]:
    """group → its figure; of pairs, where only the object, only the style, or both must be right."""
    from esd.emoji.subject import Subject

    found = {}
    for group in dict.fromkeys(row.group for row in rows):
        index = [i for i, row in enumerate(rows) if row.group == group]
        parts = ("object", "style", "both") if group.endswith("pairs") else ("",)
        for part in parts:
            wanted = []
            for i in index:
                about = rows[i].subject
                objects, styles = about.objects if part != "style" else (), about.styles if part != "object" else ()
                wanted.append(Row("it", rows[i].prompt, rows[i].seed, Subject(frozenset(objects), frozenset(styles))))
            found[f"{group}: {part}" if part else group] = measure_pictures(wanted, pictures[index])["it"]
    return found


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.bench.model_quality", description=__doc__)
    parser.add_argument("--model", choices=["emoji", "emoji-twin"], default="emoji", help="whose pictures")
    parser.add_argument("--out", type=Path, default=Path("outputs/quality"), help="the sheet's folder")
    options = parser.parse_args()
    silence_libraries()
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from esd import models
    from esd.files import write_json
    from esd.metrics.counts import format_figure
    from esd.report.result import weights_hash, write_result

    console, twin = Console(highlight=False), options.model == "emoji-twin"
    model = models.load(str(models.EMOJI_TWIN) if twin else None, "emoji")
    rows = asked(twin)
    console.print(f"{len(rows)} pictures, to {options.out}")
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Drawing", total=len(rows))
        with mixed():
            pictures = draw(model, model.denoiser, rows, lambda n: progress.advance(task, n))
    found = counts(rows, pictures)
    columns, cells = ["asked for", "right", "95 % interval", "we ask"], []
    for name, value in found.items():
        low, high = value["interval"]
        bar = BARS.get(name, CATEGORY_BAR if name.startswith("category") else None)
        missed = bar is not None and 100 * value["hits"] < bar * value["of"]
        wanted = "" if bar is None else f"{bar} %: **missed**" if missed else f"{bar} %"
        cells.append([name, format_figure(value), f"{100 * low:.1f} to {100 * high:.1f} %", wanted])
    table = Table(*columns, box=None)
    for row in cells:
        table.add_row(*row)
    console.print(table)
    text = " ".join(__doc__.split("\n\n")[1].splitlines())
    whose = "the embedded model's twin draws" if twin else "the embedded model draws"
    weights = f"the twin's {weights_hash('twin')}" if twin else weights_hash()
    command = "python -m esd.bench.model_quality" + " --model emoji-twin" * twin
    write_result(
        "twin-quality" if twin else "model-quality", title=f"How well {whose}", text=text,
        notes=[f"Drawn in {STEPS} steps ({SAMPLER}) at guidance {GUIDANCE:g}."],
        command=command, columns=columns, weights=weights, rows=cells, makers=["esd/bench/model_quality.py"],
    )  # fmt: skip
    write_json(options.out / f"{options.model}.json", found)
    sheet(rows, pictures).save(options.out / f"{options.model}.png")
    console.print(f"written: {options.out / options.model}.png")


def sheet(rows: list[Row], pictures):
    """All objects in blocks of 17: without a style, and in the four styles under each other."""
    from PIL import Image

    from esd.emoji import words
    from esd.sample.pictures import to_image

    index = {(row.prompt, row.seed): i for i, row in enumerate(rows)}
    page = Image.new("RGB", (17 * 64, 25 * 64), "white")
    for n, noun in enumerate(words.OBJECTS):
        prompts = [words.with_article(noun), *(words.styled_phrases(noun, style)[0] for style in words.STYLES)]
        for s, prompt in enumerate(prompts):
            page.paste(to_image(pictures[index[prompt, 0]]), (n % 17 * 64, (n // 17 * 5 + s) * 64))
    return page


if __name__ == "__main__":
    main()
