"""What a run's configuration erases, what it preserves, and what its grids show."""

from __future__ import annotations

import itertools
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from esd import UserError
from esd.command.checks import option_errors, texts
from esd.erasing.concepts import Concept, pair_up, preserved
from esd.erasing.prompts import unread_of
from esd.models.family import Model
from esd.protocols.everyday import everyday_without, mentions
from esd.sample.unread import lines_about


def erased_concepts(cfg: DictConfig) -> list[Concept]:
    return pair_up(texts(cfg.concept, "concept"), texts(cfg.erase_from, "erase_from") if cfg.erase_from else [""], cfg.eta)


def concepts_of(cfg: DictConfig) -> tuple[list[Concept], list[Concept]]:
    """What the configuration erases, and what it preserves."""
    erased = erased_concepts(cfg)
    if cfg.preserve is None or not cfg.preserve_weight:
        return erased, []
    gone = [concept.text for concept in erased]
    if cfg.preserve == "auto":
        prompts = preserved_by_default(cfg.model.name, gone)
    elif isinstance(cfg.preserve, str) and (Path(cfg.preserve).expanduser().is_file() or cfg.preserve.endswith(".txt")):
        prompts = read_lines(Path(cfg.preserve).expanduser())
    else:
        prompts = texts(cfg.preserve, "preserve")
    return erased, preserved(prompts, cfg.preserve_weight, erased)


def check_lengths(
    cfg: DictConfig, model: Model, concepts: list[Concept], prompts: list[str], console: Console
) -> dict[str, str]:
    """Says which of a run's prompts the model does not take in; {prompt: the rest of it that is not read} of those to erase.

    Raises UserError for a concept that is longer than the text encoder holds, unless truncate=true asks for what is read.
    """
    cut = unread_of(model, concepts, list(cfg.templates), cfg.truncate)
    for said in lines_about(model, prompts, cfg.model.path is None):
        console.print(f"warning: {said}", style="yellow", soft_wrap=True, markup=False)
    return cut


def preserved_by_default(model: str, gone: list[str]) -> list[str]:
    """What preserve=auto preserves: of the embedded model the other objects, else the shipped prompts."""
    if model == "emoji":
        from esd.emoji.subject import names_anything
        from esd.protocols.emoji import other_objects

        return other_objects([text for text in gone if names_anything(text)])
    return everyday_without(gone)


def spared_by_default(model: str, concepts: list[Concept]) -> list[str]:
    """Whose texts are spared: what preserve=auto preserves, and of the embedded model the styles that are not erased."""
    gone = [concept.text for concept in concepts]
    if model == "emoji":
        from esd.emoji.subject import names_anything, subject
        from esd.emoji.words import with_article
        from esd.protocols.emoji import other_objects, other_styles

        gone = [text for text in gone if names_anything(text)]
        in_part = {with_article(noun) for text in gone for noun in subject(text).objects}  # a cat, where one style's must go
        return [prompt for prompt in other_objects(gone) if prompt not in in_part] + other_styles(gone)
    return everyday_without(gone)


def read_lines(file: Path) -> list[str]:
    """The prompts in a file, one a line. Raises UserError where there are none."""
    with option_errors(f"preserve={file}"):
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    if not any(lines):
        raise UserError(f"preserve={file} holds no lines")
    return [line for line in lines if line]


def shown_of_the_rest(cfg: DictConfig, gone: list[str]) -> tuple[list[str], list[str]]:
    """The grid's prompts of what is not erased: three look-alikes, and one that is least like the erased.

    None where no look-alikes are known: other weights under the embedded model's name may know other words than its table.
    """
    kept = [prompt for prompt in cfg.model.kept if not mentions(prompt, gone)]
    if cfg.model.name != "emoji":
        from esd.protocols.lookalikes import lookalikes

        near = list(dict.fromkeys(near for text in gone for near in lookalikes(text)))
        return [cfg.templates[0].replace("{}", text) for text in near[:3]], kept[:1]
    from esd.emoji.words import with_article
    from esd.protocols.emoji import far_off, lookalikes

    try:
        near, far = lookalikes(gone), far_off(gone)
    except UserError:
        return [], []
    return [with_article(noun) for noun in near[:3]], [with_article(noun) for noun in far[:1]]


def grid_prompts(cfg: DictConfig, concepts: list[Concept]) -> list[str]:
    """The prompts of the grid's pictures, `grid` of them: what is erased, and for half of them at most three look-alikes and
    one from far off; where no look-alikes are known, what the model's configuration shows as kept, unless it is named among
    the erased."""
    asked = [concept.erase_from or concept.text for concept in concepts]
    near, far = shown_of_the_rest(cfg, [concept.text for concept in concepts])
    kept = near + far if near else [prompt for prompt in cfg.model.kept if not mentions(prompt, asked)]
    kept = kept[: cfg.grid // 2]
    gone = [template.replace("{}", text) for text in asked for template in cfg.templates]
    return list(itertools.islice(itertools.cycle(gone), cfg.grid - len(kept))) + kept
