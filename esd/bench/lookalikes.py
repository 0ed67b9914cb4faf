"""python -m esd.bench.lookalikes: which objects of the embedded model are near each other. About two minutes on 2 cores.

Draws the first pictures of each object that the protocol asks for as a look-alike (and keeps them where runs look for the base
model's), and writes esd/emoji/lookalikes.json, which the protocol reads; what it says stands in esd/emoji/lookalikes.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from esd.bench.loop import mixed
from esd.command.entry import ArgumentParser
from esd.emoji import words
from esd.emoji.judge import FILES, Judge, load_judge
from esd.emoji.lookalikes import TABLE
from esd.emoji.subject import Subject
from esd.files import atomic_write
from esd.models.quiet import silence_libraries
from esd.protocols import emoji


def portraits(model, judge: Judge, nouns: Sequence[str], pictures: int, done: Callable[[int], None] = lambda n: None) -> Tensor:
    """The mean of the judge's features, of unit length each, over so many pictures of each object: (objects, 1024)."""
    rows = [row for noun in nouns for row in emoji.ask(words.with_article(noun), pictures, kept=Subject(frozenset([noun])))]
    with mixed():
        drawn = emoji.draw_base(model, rows, done)
    with torch.no_grad():
        features = torch.cat([F.normalize(judge.features(part)) for part in drawn.split(256)])
    return features.unflatten(0, (len(nouns), pictures)).mean(1)


def read(model, nouns: Sequence[str]) -> Tensor:
    """What the text encoder makes of "a fox", of unit length: (objects, tokens · width)."""
    return F.normalize(model.encode([words.with_article(noun) for noun in nouns])["encoder_hidden_states"].flatten(1))


def cosines(vectors: Tensor) -> Tensor:
    """The cosine between any two of them (n, D), less the mean of all: (n, n) in [−1, 1]."""
    centred = F.normalize(vectors - vectors.mean(0))
    return centred @ centred.T


def main() -> None:
    parser = ArgumentParser(prog="python -m esd.bench.lookalikes", description=__doc__)
    parser.add_argument("--pictures", type=int, default=4, help="of each object")
    parser.add_argument("--out", type=Path, default=TABLE, help="the results' file")
    options = parser.parse_args()
    silence_libraries()
    from rich.console import Console
    from rich.progress import Progress

    from esd import models

    console, model, nouns = Console(highlight=False), models.load(None, "emoji"), list(words.OBJECTS)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Drawing", total=len(nouns) * options.pictures)
        looks = portraits(model, load_judge(), nouns, options.pictures, lambda n: progress.advance(task, n))
    near = (cosines(looks) + cosines(read(model, nouns))) / 2
    table = {
        noun: {nouns[j]: round(near[i, j].item(), 3) for j in near[i].argsort(descending=True).tolist() if j != i}
        for i, noun in enumerate(nouns)
    }
    facts = {
        "command": f"python -m esd.bench.lookalikes --pictures {options.pictures}",
        "base_hash": model.base_hash,
        "judge_sha256": hashlib.sha256((FILES / "judge.safetensors").read_bytes()).hexdigest(),
        "pictures of each object": options.pictures,
    }
    lines = ",\n".join(f"  {json.dumps(noun)}: {json.dumps(row)}" for noun, row in table.items())
    with atomic_write(options.out) as temporary:
        temporary.write_text(f'{json.dumps(facts, indent=1)[:-2]},\n "nearness": {{\n{lines}\n }}\n}}\n', encoding="utf-8")
    for noun in nouns:
        console.print(f"{noun:12} {', '.join(f'{other} {value:.2f}' for other, value in list(table[noun].items())[:3])}")
    console.print(f"written: {options.out}", soft_wrap=True)


if __name__ == "__main__":
    main()
