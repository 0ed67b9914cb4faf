"""Any concept on any model: is it gone, and is the rest intact, as CLIP sees it.

CLIP is asked zero-shot: a picture shows the concept where the concept's text leads over the best of a list of alternatives
by a margin. The margin is fitted to the base model's own pictures, those asked for the concept against those of everyday
things, so that it is right for this concept and this model; how often it is right on them is a figure of its own.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from esd import UserError
from esd.metrics.clip import Clip, calibrated_margin, clip_folder, lead
from esd.metrics.counts import mean_figure, rate_figure
from esd.metrics.paired import PairedDistance
from esd.metrics.quality import lpips
from esd.protocols import Batches, Row, noise_seed
from esd.protocols.everyday import everyday_without
from esd.protocols.lookalikes import lookalikes

NAMES = ("{}", "a picture of {}", "an image of {}")
SCENES = {  # how a concept is asked for among other things: what the picture shows without it
    "{} on a beach": "a beach", "{} in the snow": "snow", "{} in a city street": "a city street",
    "{} in a forest": "a forest", "{} beside a window": "a window", "{} at night": "night",
}  # fmt: skip
LABELS = {
    "erased": "concept seen, asked by name",
    "erased_scene": "concept seen, asked for in scenes",
    "erased_templates": "concept seen, asked in the run's templates",
    "by_name": "concept seen, asked by its own name, not from what it was erased from",
    "kept_source": "what it was erased from seen",
    "lookalikes": "look-alikes seen as themselves",
    "kept": "other prompts: their own text fits best",
    "kept_clip": "other prompts: CLIP score",
    "kept_distance": "other prompts moved (CLIP's features)",
    "kept_lpips": "other prompts moved (LPIPS)",
    "kept_pixels": "other prompts moved (pixels)",
    "lookalikes_distance": "look-alikes moved (CLIP's features)",
    "told": "judge right on the base model's pictures, to which its margin is fitted",
}


def weights_of_lpips() -> Path:
    """Where torchvision keeps AlexNet's."""
    return Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"


class Concept:
    """pictures: of each concept by name, as many in scenes, and as many in the run's templates where they are others.
    kept: of everyday prompts that share no word with a concept. lookalikes: prompts that are counted apart, "auto" those
    that the shipped table has; lookalike_pictures of each. alternatives: beside the everyday ones, what a picture may
    show instead of the concept."""

    # 2: a noise is a function of protocol, prompt and number alone; what is kept is counted by name, too
    name, version, concept_needed, side = "concept", 2, True, None
    labels = LABELS
    reference: dict = {}

    def __init__(
        self, pictures: int, kept: int, lookalikes: str | Sequence[str] | None, lookalike_pictures: int,
        templates: Sequence[str], alternatives: Sequence[str], clip: str, guidance: float, seed: int,
    ):  # fmt: skip
        if wrong := [template for template in templates if template.count("{}") != 1]:
            raise UserError(f"protocol.templates: '{wrong[0]}' needs one {{}} where the concept goes")
        self.pictures, self.kept, self.lookalike_pictures = pictures, kept, lookalike_pictures
        self.asked_lookalikes = [lookalikes] if isinstance(lookalikes, str) and lookalikes != "auto" else lookalikes
        self.templates, self.alternatives = tuple(templates), tuple(alternatives)
        self.clip, self.guidance, self.seed = clip, guidance, seed

    def find(self) -> None:
        """Make sure that the judge can be had. Raises UserError, within seconds, where it cannot."""
        self.folder = clip_folder(self.clip)

    def ready(self, device: torch.device) -> None:
        self.find()
        self.judge = Clip(self.folder).to(device)
        there = bool(find_spec("torchvision")) and weights_of_lpips().is_file()
        self.lpips: nn.Module | None = lpips().to(device) if there else None

    def record(self) -> dict:
        return {
            "judge": "CLIP, zero-shot, margin fitted to the base model's pictures", "clip": self.clip, **self.judge.record(),
            "lpips": self.lpips is not None, "templates": list(self.templates), "alternatives": list(self.alternatives),
        }  # fmt: skip

    def lookalikes_of(self, concepts: Sequence[str]) -> list[str]:
        if self.asked_lookalikes != "auto":
            return list(self.asked_lookalikes or ())
        return list(dict.fromkeys(text for concept in concepts for text in lookalikes(concept) if text not in concepts))

    def rows(self, concepts: Sequence[str], erase_from: Sequence[str] = ()) -> list[Row]:
        """Every picture has a noise of its own. A concept that is erased from another text is looked for where that text
        is asked for, and so is what must be left; asked by its own name, it is counted apart."""
        made, asked = [], Counter()
        noises = f"{self.name} {self.version} {self.seed}"

        def ask(prompts: Sequence[str], pictures: int, **groups: str) -> None:
            for prompt, _ in zip(itertools.cycle(prompts), range(pictures if prompts else 0), strict=False):
                noise = noise_seed(noises, prompt, asked[prompt])  # wherever in the list it stands
                asked[prompt] += 1
                made.extend(Row(group, prompt, noise, about, self.guidance) for group, about in groups.items())

        phrased = [template for template in self.templates if template not in NAMES]
        for text, source in zip(concepts, erase_from or [""] * len(concepts), strict=True):
            both = {"kept_source": source} if source else {}
            for group, ways in (("erased", NAMES), ("erased_scene", list(SCENES)), ("erased_templates", phrased)):
                ask([way.replace("{}", source or text) for way in ways], self.pictures, **{group: text}, **both)
            if source:
                ask([way.replace("{}", text) for way in (*NAMES, *SCENES)], self.pictures, by_name=text)
        rest = everyday_without([*concepts, *filter(None, erase_from)])
        n = min(self.kept, len(rest))
        spread = [rest[i * len(rest) // n] for i in range(n)]
        for prompt in itertools.islice(itertools.cycle(spread), self.kept):
            ask([prompt], 1, kept=prompt)
        for text in self.lookalikes_of(concepts):
            ask([way.replace("{}", text) for way in NAMES], self.lookalike_pictures, lookalikes=text)
        return made

    def concept_logits(self, text: str) -> Tensor:
        """What a concept is to CLIP: its names' features, averaged (D,)."""
        ways = [way.replace("{}", text) for way in dict.fromkeys((*NAMES, *self.templates))]
        return nn.functional.normalize(self.judge.texts(ways).mean(0), dim=0)

    def measure(self, batches: Batches) -> dict[str, dict]:
        rows: list[Row] = []
        after, before, pixels = [], [], PairedDistance()
        moved: list[float] = []
        for asked, images, base in batches:
            rows += asked
            after.append(self.judge.pictures(images))
            before.append(self.judge.pictures(base))
            if index := [i for i, row in enumerate(asked) if row.group == "kept"]:
                pixels.update(images[index], base[index])
                if self.lpips is not None:
                    self.lpips.reset()
                    self.lpips.update(images[index], base[index])
                    moved += self.lpips.compute().tolist()
        figures = self.figures(rows, torch.cat(after), torch.cat(before))
        if pixels.values:
            figures["kept_pixels"] = mean_figure(pixels.distances().tolist())
        if moved:
            figures["kept_lpips"] = mean_figure(moved)
        return {name: figures[name] for name in LABELS if name in figures}

    def figures(self, rows: Sequence[Row], after: Tensor, before: Tensor) -> dict[str, dict]:
        """From unit features (n, D) of the rows' pictures and of the base model's."""
        groups: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(row.group, []).append(i)
        kept = groups.get("kept", [])
        rest = list(dict.fromkeys(str(rows[i].subject) for i in kept))
        alike = list(dict.fromkeys(str(rows[i].subject) for i in groups.get("lookalikes", ())))
        sources = {
            str(rows[i].subject): rows[j].subject  # of one picture: the concept, and what it was erased from
            for i in itertools.chain(*(groups[g] for g in groups if g.startswith("erased")))
            for j in groups.get("kept_source", ())
            if rows[i].file == rows[j].file
        }
        figures: dict[str, dict] = {}
        told, margins = [0, 0], {}
        for text in dict.fromkeys(str(row.subject) for row in rows if row.group in (*SEEN, "by_name", "kept_source")):
            others = [*rest, *SCENES.values(), *alike, *self.alternatives, *filter(None, [sources.get(text)])]
            about, instead = self.concept_logits(text), self.judge.texts(others)
            lead_before, lead_after = (
                lead(100 * features @ about, 100 * features @ instead.T) for features in (before, after)
            )  # each (n,)
            shows = [i for i, row in enumerate(rows) if row.subject == text and row.group in self.asking(text, sources)]
            margins[text] = margin = calibrated_margin(lead_before[shows], lead_before[kept])
            told[0] += int((lead_before[shows] > margin).sum()) + int((lead_before[kept] <= margin).sum())
            told[1] += len(shows) + len(kept)
            for group in (*SEEN, "by_name", "kept_source"):
                if index := [i for i in groups.get(group, ()) if rows[i].subject == text]:
                    each = figures.setdefault(group, {"each": {}})["each"]
                    each[text] = [int((lead_after[index] > margin).sum()), len(index)]
        for group in figures:
            each = figures[group]["each"]
            figures[group] = rate_figure(*(sum(pair[i] for pair in each.values()) for i in range(2)))
            if group != "by_name":  # of which nothing counts as lost
                figures[group]["each"] = each
        figures["told"] = rate_figure(*told) | {"margin": {text: round(margin, 4) for text, margin in margins.items()}}
        for group, texts in (("kept", rest), ("lookalikes", [*alike, *margins])):
            if index := groups.get(group):
                own = torch.tensor([texts.index(str(rows[i].subject)) for i in index], device=after.device)
                cos = after[index] @ self.judge.texts(texts).T  # (n, texts)
                right = cos.argmax(1) == own
                each = {text: [int(right[own == k].sum()), int((own == k).sum())] for k, text in enumerate(texts)}
                figures[group] = rate_figure(int(right.sum()), len(index))
                figures[group]["each"] = {text: pair for text, pair in each.items() if pair[1]}
                moved = (after[index] - before[index]).square().sum(1) / 2  # 1 − cos of unit features
                figures[f"{group}_distance"] = mean_figure(moved.tolist())
                if group == "kept":
                    figures["kept_clip"] = mean_figure((100 * cos.gather(1, own[:, None]))[:, 0].clamp(min=0).tolist())
        return figures

    @staticmethod
    def asking(text: str, sources: dict) -> tuple[str, ...]:
        """The groups whose base pictures show the text because they were asked for it."""
        if text in sources:
            return ("by_name",)
        return (*SEEN, "kept_source")


SEEN = ("erased", "erased_scene", "erased_templates")
