"""python -m esd.bench.against: erasure beside what it is compared with. Five minutes for each concept on one core.

ESD-x and ESD-u beside a negative prompt, a filter, safe latent diffusion in its four settings, and the twin where it never
learnt the concept (esd/emoji/words.py, STUDIED), on the embedded model, from the same prompts and noise: is the concept seen
where it is asked for, are other objects still right, and what is seen once somebody who has the weights undoes it. A negative
prompt, a filter and a guidance are left out by who runs the model, at no cost. An erasure is trained again: on four drawings
of the concept, all weights, Adam. Every column is kept in --out as it is made, from which a repeated command goes on; the table
goes to outputs/gallery/against.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esd.bench.loop import DEFAULT, Loop, mixed, store_in
from esd.bench.quality import LR
from esd.bench.quality_tables import RULES
from esd.metrics.counts import format_figure, format_interval, rate_figure
from esd.metrics.filters import emoji_filter
from esd.models.family import Model
from esd.protocols import Row, emoji
from esd.sample.sampling import sample
from esd.sample.sld import SETTINGS, SafeLatentDiffusion

TITLES = {
    "base": "the base model", "negative": "negative prompt", "filter": "a filter: the judge itself",
    **{f"sld-{setting}": f"safe latent diffusion, {setting}" for setting in SETTINGS},
    "esd-x": "ESD-x", "esd-u": "ESD-u", "esd-x-again": "ESD-x, trained again", "esd-u-again": "ESD-u, trained again",
    "twin": "a model that never learnt it", "twin-again": "a model that never learnt it, trained on it",
}  # fmt: skip
TEXT = (
    "Beside the base model: other means against a concept, from the same prompts and noise, on the embedded model. *Undone* "
    "is what is seen once somebody who has the weights sets about it: a negative prompt, a filter and a guidance are left "
    "out, which gives the base model; an erased model is trained again on four drawings of the concept, and so is the twin: "
    "what is seen of that one was learnt anew."
)


def drawings(concept: str) -> Tensor:
    """The concept as the emoji sets draw it, one in each style: (4, 3, 64, 64) in [0, 1]."""
    from esd.emoji import art
    from esd.emoji.subject import subject

    pictures, noun, _ = art.objects()
    wanted = [list(art.OBJECTS).index(name) for name in subject(concept).objects]
    chosen = pictures[torch.isin(noun, torch.tensor(wanted))][:4]
    return art.augment(chosen, torch.Generator().manual_seed(0), strength=0.0)


def train_again(model: Model, denoiser: nn.Module, concept: str, steps: int, lr: float = 1e-4) -> None:
    """Ordinary denoising training (Ho et al. 2020) of all weights on four drawings, in place."""
    generator, scheduler = torch.Generator().manual_seed(0), model.scheduler
    with torch.no_grad():
        x_0 = model.base.vae.encode(2 * drawings(concept) - 1).latent_dist.mean * model.base.vae.config.scaling_factor
    condition = model.encode([emoji.concept_prompts(concept)["erased"][0]] * len(x_0))
    parameters = [p.requires_grad_() for p in denoiser.parameters()]
    optimizer = torch.optim.Adam(parameters, lr)
    for _ in range(steps):
        t = torch.randint(1000, (len(x_0),), generator=generator)
        noise = torch.randn(x_0.shape, generator=generator)
        x_t = scheduler.add_noise(x_0, noise, t)
        target = scheduler.get_velocity(x_0, noise, t) if scheduler.config.prediction_type == "v_prediction" else noise
        optimizer.zero_grad()
        with mixed():
            loss = F.mse_loss(model.predict(denoiser, x_t, t, condition), target)
        loss.backward()
        optimizer.step()


class Comparison:
    """One concept: its rows, and the figures of each column."""

    def __init__(self, model: Model, concept: str, pictures: int, every: int, steps: int):
        self.model, self.concept, self.steps = model, concept, steps
        asked = emoji.rows([concept], pictures, 4, 1)
        kept = [row for row in asked if row.group == "kept"][::every]
        self.rows: list[Row] = [row for row in asked if row.group.startswith("erased") or row.group == "lookalikes"] + kept

    def figures(
        self, denoiser: nn.Module, black: bool = False, model: Model | None = None, **means: object
    ) -> dict[str, list[int]]:
        """{"seen", "lookalikes", "kept"}: [pictures, of] in which the judge sees what was asked. black: behind the filter.
        model: whose denoiser it is; nothing: the base model's."""
        prompts, seeds = [row.prompt for row in self.rows], [row.seed for row in self.rows]
        with mixed():
            drawn = sample(model or self.model, denoiser, prompts, seeds, steps=self.steps, guidance=emoji.GUIDANCE, **means)
        if black:
            drawn = drawn * ~emoji_filter([self.concept])(drawn)[:, None, None, None]
        found = emoji.measure_pictures(self.rows, drawn)
        seen = [figure for group, figure in found.items() if group.startswith("erased")]
        return {
            "seen": [sum(figure[part] for figure in seen) for part in ("hits", "of")],
            **{group: [found[group]["hits"], found[group]["of"]] for group in ("lookalikes", "kept") if group in found},
        }

    def erased(self, layers: str, steps: int) -> nn.Module:
        """A student trained as `python -m esd.train` trains unless told otherwise."""
        with tempfile.TemporaryDirectory() as folder:
            loop = Loop(
                self.model, self.concept, DEFAULT, 10, store_in(Path(folder)), lr=LR[layers], rule=RULES[layers], spread=False
            )
            loop.run(steps)
        return loop.module.student


def columns(comparison: Comparison, twin: Model, found: dict, train: int, again: int) -> Iterator[tuple[str, dict]]:
    """(name, figures) of each column that is not found yet."""
    from esd.emoji import words
    from esd.emoji.subject import subject

    model, concept = comparison.model, comparison.concept
    means = {
        "base": {}, "negative": {"negative": concept}, "filter": {"black": True},
        **{f"sld-{setting}": {"safe": SafeLatentDiffusion(concept, setting)} for setting in SETTINGS},
    }  # fmt: skip
    for name, how in means.items():
        if f"{concept}/{name}" not in found:
            yield name, comparison.figures(model.denoiser, **how)
    for layers in RULES:
        if not {f"{concept}/{layers}", f"{concept}/{layers}-again"} <= set(found):
            student = comparison.erased(layers, train)
            yield layers, comparison.figures(student)
            train_again(model, student := copy.deepcopy(student), concept, again)  # which shares nothing with the frozen one
            yield f"{layers}-again", comparison.figures(student)
    never_learnt = subject(concept).objects <= set(words.STUDIED)
    if never_learnt and not {f"{concept}/twin", f"{concept}/twin-again"} <= set(found):
        yield "twin", comparison.figures(twin.denoiser, model=twin)
        train_again(twin, student := copy.deepcopy(twin.denoiser), concept, again)
        yield "twin-again", comparison.figures(student, model=twin)


def table(found: dict) -> tuple[list[str], list[list[str]]]:
    """Over all concepts: columns and rows."""

    def pooled(name: str, what: str) -> dict:
        of = [figures[what] for key, figures in found.items() if key.partition("/")[2] == name and what in figures]
        return rate_figure(*(sum(pair[i] for pair in of) for i in range(2)))

    def cell(figure: dict) -> str:
        return f"{format_figure(figure)}, {format_interval(figure)}" if figure["of"] else ""

    rows = []
    for name, title in TITLES.items():
        if any(key.partition("/")[2] == name for key in found) and not name.endswith("-again"):
            undone = {"base": ""}.get(name, cell(pooled(f"{name}-again" if f"{name}-again" in TITLES else "base", "seen")))
            rows.append([title, *(cell(pooled(name, what)) for what in ("seen", "lookalikes", "kept")), undone])
    return ["against the concept", "seen, asked for", "look-alikes right", "other objects right", "undone: seen"], rows


def main() -> None:
    from esd.command.entry import ArgumentParser

    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=["pizza", "owl"], help="what is erased (pizza owl)")
    parser.add_argument("--pictures", type=int, default=12, help="of the concept by name, and as many in styles")
    parser.add_argument("--every", type=int, default=4, help="one picture of every so many other objects")
    parser.add_argument("--sampling-steps", type=int, default=15, help="of a judged picture")
    parser.add_argument("--steps", type=int, default=60, help="of an erasure")
    parser.add_argument("--again", type=int, default=60, help="steps of training again")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench-against.json"), help="the results' file")
    options = parser.parse_args()
    from rich.console import Console

    from esd import models
    from esd.command.entry import fail
    from esd.files import write_json
    from esd.report.result import write_result

    torch.set_num_threads(1)
    console, model = Console(highlight=False), models.load(None, "emoji")
    twin = models.load(str(models.EMOJI_TWIN), "emoji")
    names = ("pictures", "every", "sampling_steps", "steps", "again")
    settings = {name: getattr(options, name) for name in names} | {"base": model.base_hash}
    results = json.loads(options.out.read_text()) if options.out.is_file() else {"settings": settings, "figures": {}}
    if results["settings"] != settings:
        fail(f"{options.out} was measured with other sizes or another model: remove it, or give --out another name")
    for concept in options.concepts:
        comparison = Comparison(model, concept, options.pictures, options.every, options.sampling_steps)
        for name, figures in columns(comparison, twin, results["figures"], options.steps, options.again):
            results["figures"][f"{concept}/{name}"] = figures
            write_json(options.out, results)
            console.print(f"{concept}, {TITLES[name]}: seen {figures['seen']}, kept {figures['kept']}")
    heads, rows = table(results["figures"])
    for line in (heads, *rows):
        console.print(" | ".join(line), soft_wrap=True, markup=False)
    done = sorted({key.partition("/")[0] for key in results["figures"]})
    write_result(
        "against", title="Beside other means", text=TEXT, columns=heads, rows=rows,
        command=shlex.join(["python", "-m", "esd.bench.against", *sys.argv[1:]]),
        notes=[
            f"Concepts: {', '.join(done)}; one run of {options.steps} steps each, pictures in {options.sampling_steps} steps. "
            "The filter is the judge that measures, so it sees nothing left by construction; what it costs is what it flags of "
            f"the rest. Trained again: {options.again} steps on four drawings. Among the other objects there are some that the "
            "model which never learnt the concept never learnt either."
        ],
        makers=["esd/bench/against.py", "esd/sample/sld.py", "esd/metrics/filters.py"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
