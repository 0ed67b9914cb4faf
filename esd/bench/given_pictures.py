"""python -m esd.bench.given_pictures: concepts given as pictures, erased from the embedded model. Four minutes on one core.

One drawing: noto's pizza, where pizza in the other styles and noto's other objects are to stay. And an object without a word:
an emoji that the model was never shown is taught to it under two words that mean nothing together, and erased by its pictures,
once under these words and once under the text that is found by inversion.
"""

from __future__ import annotations

import copy
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esd.attack import never_shown
from esd.bench.loop import mixed
from esd.command.entry import ArgumentParser
from esd.emoji import art, words
from esd.emoji.judge import load_judge
from esd.emoji.subject import Subject
from esd.erasing.edit import apply_edit, read_edit
from esd.metrics.counts import format_figure, format_interval, rate_figure
from esd.metrics.emoji import shows_subject
from esd.models.family import Model
from esd.protocols import Row, emoji
from esd.report.result import GALLERY, write_result
from esd.sample.pictures import grid, save_picture, to_image

PICTURES = 24  # of each row of the table
GIVEN = 16  # pictures, augmented from the drawing or drawings
PROMPTS = ("a rocket tulip", "rocket tulip")  # under which the object without a word is taught; the first is what is counted
TEACH = {"steps": 400, "batch": 8, "lr": 2e-4}  # the rate falls to nothing by half a cosine
SLOWLY = ("lr=2e-3", "steps=60")  # so near to what is to stay
TEXT = f"""{GIVEN} augmentations of what is given are written into a folder, an erasure is run on it as a person types it \
(below), and the judge counts pictures of before and after, drawn from the same noise. *One drawing* is erased under a typed \
text; the same object in the other styles and a few other objects in this one are preserved. *An object without a word*: the \
drawings of an emoji that the model was never shown are taught to it by {TEACH["steps"]} steps of training under \
"{PROMPTS[0]}", which names nothing; the erasure gets the drawings, and that text or none: then it is found by inversion.

What is preserved, its weight, rate and steps were chosen on twemoji's banana, in three tries: with more of them, and at the \
default's rate, the banana went in every style. How an object is taught was chosen on the koala, in five tries: taught under \
a text that means nothing to the model ("an emoji", "a photo") it was drawn under the null prompt as well, and then there is \
no difference to erase."""
COLUMNS = ["given", "text", "counted", "before", "after"]


def some(count: int, without: Sequence[str]) -> list[str]:
    """So many objects, spread over all of them."""
    left = [noun for noun in words.OBJECTS if noun not in without]
    return [left[i * len(left) // count] for i in range(count)]


def asked(noun: str, style: str) -> dict[str, list[Row]]:
    """What is drawn where this object in this style is erased."""
    held_out, others = words.held_out_pairs(), [other for other in words.STYLES if other != style]
    never_drawn = [noun, *(other for other, its in held_out if its == style)]

    def styled(nouns: Sequence[str], styles: Sequence[str], phrases: int, n: int) -> list[Row]:
        return [
            row
            for name in nouns
            for its in styles
            for phrase in words.styled_phrases(name, its)[:phrases]
            for row in emoji.ask(phrase, n, seen=Subject(frozenset([name]), frozenset([its])))
        ]

    return {
        f"{noun} in {style}": styled([noun], [style], 3, PICTURES // 3),
        f"{noun} in {', '.join(others)}": styled([noun], others, 1, PICTURES // 3),
        f"other objects in {style}": styled(some(PICTURES, never_drawn), [style], 1, 1),
        "other objects": plain(some(PICTURES, [noun])),
    }


def plain(nouns: Sequence[str]) -> list[Row]:
    return [row for noun in nouns for row in emoji.ask(words.with_article(noun), 1, seen=Subject(frozenset([noun])))]


def drawn(model: Model, rows: dict[str, list[Row]]) -> dict[str, Tensor]:
    """The rows' pictures, (n, 3, 64, 64) for each name."""
    with mixed():
        return {name: emoji.draw(model, model.denoiser, its) for name, its in rows.items()}


@torch.no_grad()
def counted(rows: Sequence[Row], pictures: Tensor) -> str:
    """In how many of them the judge sees what was asked for."""
    objects, styles = load_judge()(pictures)
    return figure(shows_subject(objects.argmax(1), styles.argmax(1), [row.subject for row in rows]))


def figure(seen: Tensor) -> str:
    found = rate_figure(int(seen.sum()), len(seen))
    return f"{format_figure(found)}, {format_interval(found)}"


def write_given(drawings: Tensor, folder: Path) -> Tensor:
    """Augmentations of drawings (n, 4, s, s) as files; the pictures (GIVEN, 3, 64, 64)."""
    given = never_shown.augmented(drawings, GIVEN // len(drawings), 0)
    folder.mkdir()
    for i, picture in enumerate(given):
        to_image(picture).save(folder / f"{i}.png")
    return given


def erase(options: list[str], place: Path) -> tuple[Path, str]:
    """A run as a person types it: its folder, and its command without the folders that this one made."""
    command = [sys.executable, "-m", "esd.train", *options]
    subprocess.run([*command, f"hydra.run.dir={place / 'run'}", "logger=none", "grid=0", "evaluate=false"], check=True)
    shown = shlex.join(["python", "-m", "esd.train", *options]).replace(f"{place}/", "")
    return place / "run", shown


def preserved(noun: str, style: str) -> str:
    """What a person would name who wants to keep the rest: this object in the other styles, and some others in this one, none
    of which is counted."""
    counted_ones = some(PICTURES, [noun, *(other for other, its in words.held_out_pairs() if its == style)])
    same = [words.styled_phrases(noun, other)[0] for other in words.STYLES if other != style]
    others = [other for other in words.OBJECTS if other not in (noun, *counted_ones)]
    return ",".join([*same, *(words.styled_phrases(other, style)[0] for other in others[::10])])


def one_drawing(noun: str, style: str, place: Path) -> tuple[list[list[str]], str, list[Tensor], list[str]]:
    """Rows of the table, the command, the sheet's rows and captions."""
    from esd import models

    pictures, of, its = art.objects()
    chosen = pictures[(of == list(words.OBJECTS).index(noun)) & (its == list(words.STYLES).index(style))]
    given = write_given(chosen, place / "given")
    text, rows = words.styled_phrases(noun, style)[0], asked(noun, style)
    kept = [f"preserve={preserved(noun, style)}", "preserve_weight=3"]
    run, command = erase([f"concept={text}", f"images={place}/given", *SLOWLY, *kept], place)
    model = models.load(None, "emoji")
    before = drawn(model, rows)
    apply_edit(model.denoiser, read_edit(run / "edit.safetensors"))
    after = drawn(model, rows)
    what = f"one drawing, {style}'s {noun}"
    table = [
        [what, f"{text}, typed", name, counted(its, before[name]), counted(its, after[name])] for name, its in rows.items()
    ]
    return table, command, *sheet(given, rows, before, after)


def taught(model: Model, drawings: Tensor) -> nn.Module:
    """The denoiser after a few steps of ordinary training (Ho et al. 2020) of all its weights: half of each batch drawings
    (n, 4, s, s) under PROMPTS, half the model's own under their names, so that it keeps them."""
    generator, student = torch.Generator().manual_seed(0), copy.deepcopy(model.denoiser)
    own, noun, _ = art.objects()
    latents = [model.latents(never_shown.augmented(drawings, 8, 1)), model.latents(never_shown.augmented(own, 1, 2))]
    names = [
        [PROMPTS[i % 2] for i in range(len(latents[0]))],
        [words.with_article(list(words.OBJECTS)[n]) for n in noun.tolist()],
    ]
    prompts = sorted({prompt for its in names for prompt in its})
    table = model.encode(prompts)
    optimizer = torch.optim.Adam([p.requires_grad_() for p in student.parameters()], TEACH["lr"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TEACH["steps"])
    for _ in range(TEACH["steps"]):
        picked = [torch.randint(len(x), (TEACH["batch"] // 2,), generator=generator) for x in latents]
        x_0 = torch.cat([x[i] for x, i in zip(latents, picked, strict=True)])
        rows = torch.tensor([prompts.index(its[i]) for its, few in zip(names, picked, strict=True) for i in few.tolist()])
        t = torch.randint(1000, (len(x_0),), generator=generator)
        noise = torch.randn(x_0.shape, generator=generator)
        optimizer.zero_grad()
        with mixed():
            eps = model.predict(student, model.scheduler.add_noise(x_0, noise, t), t, {k: v[rows] for k, v in table.items()})
        F.mse_loss(eps, noise).backward()
        optimizer.step()
        schedule.step()
    return student.requires_grad_(False)


def without_a_word(name: str, place: Path) -> tuple[list[list[str]], str, list[Tensor], list[str]]:
    """Rows of the table, the command, the sheet's rows and captions."""
    from esd import models

    drawings, base = never_shown.drawings(name), models.load(None, "emoji")
    asked_for, others = f"{name}, asked for '{PROMPTS[0]}'", "other objects"
    rows = {asked_for: emoji.ask(PROMPTS[0], PICTURES, seen=Subject()), others: plain(some(PICTURES, []))}
    never = drawn(base, rows)
    base.pipeline(taught(base, drawings)).save_pretrained(place / "taught")
    given = write_given(drawings, place / "given")

    def figures(pictures: dict[str, Tensor]) -> list[str]:
        sees = figure(never_shown.shipped().sees(pictures[asked_for], name))
        return [sees, counted(rows[others], pictures[others])]

    before, table, made = drawn(models.load(str(place / "taught"), "emoji"), rows), [], []
    for how, text in (("found", []), ("typed", [f"concept={PROMPTS[0]}"])):
        told = [f"images={place}/given", f"model.path={place}/taught", "preserve=auto", *text]
        run, command = erase(told, place / how)
        edit, model = read_edit(run / "edit.safetensors"), models.load(str(place / "taught"), "emoji")
        apply_edit(model.denoiser, edit)
        made.append((command.replace(f"{place}/", ""), drawn(model, rows)))
        for row, first, then, now in zip(rows, figures(never), figures(before), figures(made[-1][1]), strict=True):
            said = f"{edit.record['concept'][0]}, {how}"
            table.append([f"a {name}", said, row, f"{then} (before it was taught: {first})", now])
    return table, "`, `".join(command for command, _ in made), *sheet(given, rows, before, made[-1][1])


def sheet(given: Tensor, rows: dict[str, list[Row]], before: dict, after: dict) -> tuple[list[Tensor], list[str]]:
    """Given, before and after, of each of the rows a few."""
    few = 8 // len(rows)
    captions = [row.prompt for its in rows.values() for row in its[:: PICTURES // few][:few]]
    bands = [torch.cat([pictures[name][:: PICTURES // few][:few] for name in rows]) for pictures in (before, after)]
    blank = torch.ones(len(captions) - few, *given.shape[1:])
    return [torch.cat([given[:few], blank]), *bands], captions


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.bench.given_pictures", description=__doc__)
    parser.add_argument("--drawing", default="pizza/noto", help="the object and the style of the one drawing (pizza/noto)")
    parser.add_argument("--nameless", default="unicorn", choices=never_shown.NAMES, help="the object without a word (unicorn)")
    parser.add_argument("--folder", type=Path, default=GALLERY, help="where the table and the sheets go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = {
        "drawing": lambda place: one_drawing(*options.drawing.split("/"), place),
        "nameless": lambda place: without_a_word(options.nameless, place),
    }
    rows, notes, pictures = [], [], []
    for case, make in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            table, command, bands, captions = make(Path(folder))
        rows += table
        notes.append(f"`{command}`")
        pictures.append([f"given-pictures-{case}.png", table[0][0]])
        save_picture(grid(bands, ["given", "before", "after"], captions), options.folder / pictures[-1][0])
    for row in (COLUMNS, *rows):
        print(" | ".join(row))
    write_result(
        "given-pictures", title="Concepts given as pictures", text=TEXT, columns=COLUMNS, rows=rows, notes=notes,
        command=shlex.join(["python", "-m", "esd.bench.given_pictures", *sys.argv[1:]]), pictures=pictures,
        makers=["esd/bench/given_pictures.py", "esd/erasing/naming.py", "esd/erasing/pictures.py"], folder=options.folder,
    )  # fmt: skip


if __name__ == "__main__":
    main()
