"""What a model does not take in of its prompts is said: where the text encoders of every family cut, and unknown words."""

from __future__ import annotations

import random

import pytest
import torch
from families import LENGTH, PIPELINES, built
from omegaconf import OmegaConf
from rich.console import Console

from esd import UserError
from esd.emoji.subject import nearest, unknown_words
from esd.erasing.concepts import Concept
from esd.models.folders import FAMILIES
from esd.models.lengths import token_limits, unread
from esd.sample.unread import lines_about
from esd.train.run_prompts import check_lengths


def loaded(family):
    import importlib

    pipeline = built(family)
    module, name = FAMILIES[type(pipeline).__name__]
    return getattr(importlib.import_module(f"esd.models.{module}"), name)(pipeline, family)


@pytest.mark.parametrize("family", PIPELINES)
def test_what_is_not_read_does_not_matter_and_what_is_read_does(family):
    model, draw = loaded(family), random.Random(0)
    longest = max(limit for _, limit in token_limits(model.base))
    assert longest == {"sd3": 256, "flux": 512}.get(family, LENGTH)
    prompt = " ".join(draw.choice("abcdefgh") for _ in range(longest + 9))
    rest = unread(model.base, prompt)
    kept = prompt.removesuffix(rest)
    assert rest and prompt.endswith(rest) and unread(model.base, kept) == "" and unread(model.base, "a b") == ""
    words = kept.split()
    other = {"same": kept + " x y z", "less": " ".join(words[:-1]), "changed": " ".join([*words[:-1], "z"])}
    coded = {name: model.encode([text]) for name, text in {"whole": prompt, **other}.items()}

    def alike(name):
        return all(torch.equal(coded["whole"][key], coded[name][key]) for key in coded["whole"])

    assert alike("same") and not alike("less") and not alike("changed")


def options(**given):
    return OmegaConf.create({"templates": ["{}"], "truncate": False, "model": {"path": None}, **given})


def test_a_concept_that_is_longer_than_the_encoder_holds_is_an_error_unless_asked_for(tiny, capsys):
    long, console = " ".join(["cat", "dog"] * 10), Console(soft_wrap=True)
    rest = unread(tiny.base, long)
    for concepts in ([Concept(long)], [Concept("bomb", erase_from=long)]):
        with pytest.raises(UserError, match=f"tiny's text encoder holds, and '{rest}' would not be read: shorten the concept"):
            check_lengths(options(), tiny, concepts, [long], console)
    with pytest.raises(UserError, match="would not be read"):  # the phrasing counts
        check_lengths(options(templates=["a photo of a {}"]), tiny, [Concept(long.removesuffix(rest).strip())], [], console)
    assert check_lengths(options(truncate=True), tiny, [Concept(long)], ["", long], console) == {long: rest}
    assert f"'{rest}' is not read" in capsys.readouterr().out
    assert check_lengths(options(), tiny, [Concept("cat")], ["", "cat", long], console) == {}  # a prompt to preserve: said
    assert f"'{rest}' is not read" in capsys.readouterr().out


def test_unknown_words_are_named_with_the_nearest_known(tiny):
    assert unknown_words("a photo of a pizza, noto style") == []
    (line,) = lines_about(tiny, ["a piza", "an owl and a dragonfly"], embedded=True)
    assert line == (
        "the emoji model was never taught 'piza' (it knows pizza), 'and' (it knows panda), 'dragonfly' "
        f"(it knows {nearest('dragonfly')}): what it draws for them means nothing"
    )
    assert lines_about(tiny, ["a piza"], embedded=False) == []


def test_of_many_long_prompts_a_few_are_named(tiny):
    lines = lines_about(tiny, [" ".join(["cat"] * 30 + [str(n)]) for n in range(9)], embedded=False)
    assert len(lines) == 4 and lines[-1] == "and so of 6 more prompts"
