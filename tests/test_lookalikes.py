"""Look-alikes: the table for real models, and the embedded model's, which is computed from its pictures."""

from __future__ import annotations

import hashlib
import json

import pytest

from esd.emoji import lookalikes as table
from esd.emoji import words
from esd.emoji.judge import FILES, load_judge
from esd.metrics.objects import IMAGENETTE
from esd.protocols import emoji
from esd.protocols import lookalikes as real


@pytest.mark.parametrize(
    ("concept", "among"),
    [
        ("Van Gogh", "Paul Gauguin"),
        ("Vincent van Gogh", "Paul Gauguin"),
        ("in the style of van gogh", "Paul Gauguin"),
        ("Monet", "Camille Pissarro"),
        ("a painting by Salvador Dali", "René Magritte"),
        ("Kelly McKernan", "Tyler Edlin"),
        ("chain saw", "power drill"),
        ("Nudity", "person in a swimsuit"),
    ],
)
def test_what_is_shipped_for_real_models(concept, among):
    found = real.lookalikes(concept)
    assert among in found and len(found) == 3


def test_what_the_table_does_not_know_has_none():
    for concept in ("cowboy hat", "bacon", "a", "", "???", "man", "van"):
        assert real.lookalikes(concept) == [], concept


def test_a_look_alike_is_no_other_name_of_the_concept():
    every = [text for kind in ("painters", "characters") for line in real.table()[kind].values() for text in line]
    every += [text for entry in real.table()["concepts"] for text in entry["of"]]
    assert len({real.plain(text) for text in every}) == len(every) and set(IMAGENETTE) <= set(every)
    for text in every:
        found = real.lookalikes(text, 99)
        assert len(found) >= 2 and real.plain(text) not in map(real.plain, found), text
    for name in IMAGENETTE:
        assert not set(real.lookalikes(name)) & set(IMAGENETTE), "protocol=imagenette counts those already"


def test_the_embedded_models_table_is_of_the_weights_that_ship():
    """Its hashes, its form, and two of its figures from pictures drawn anew."""
    import torch

    from esd import models
    from esd.bench.lookalikes import portraits, read
    from esd.models.hashes import fingerprint

    made, model = json.loads(table.TABLE.read_text()), models.load(None, "emoji")
    assert made["base_hash"] == fingerprint(model.denoiser)
    assert made["judge_sha256"] == hashlib.sha256((FILES / "judge.safetensors").read_bytes()).hexdigest()
    near = made["nearness"]
    assert list(near) == list(words.OBJECTS)
    for noun, row in near.items():
        assert set(row) == set(words.OBJECTS) - {noun} and list(row.values()) == sorted(row.values(), reverse=True)
        assert all(-1 <= value <= 1 and value == near[other][noun] for other, value in row.items())
    nouns = ["axe", "hammer", "pizza"]
    for vectors in (portraits(model, load_judge(), nouns, 2), read(model, nouns)):
        shown = torch.nn.functional.normalize(vectors)
        assert shown[0] @ shown[1] > shown[0] @ shown[2]
    assert near["axe"]["hammer"] > near["axe"]["pizza"] and "fox" in list(near["cat"])[:3]


def test_the_look_alikes_of_what_is_erased():
    def nearest(noun):
        return list(table.nearness()[noun])[:3]

    assert emoji.lookalikes(["cat"]) == nearest("cat") and emoji.lookalikes(["openmoji style"]) == []
    first = nearest("cat")[0]
    both = emoji.lookalikes(["cat", first])
    assert {"cat", first}.isdisjoint(both) and 3 <= len(both) <= 6, "what is erased itself is none"
    assert set(emoji.lookalikes(["weapon"])).isdisjoint(words.CATEGORIES["weapon"]) and len(emoji.lookalikes(["weapon"])) == 3
    assert emoji.lookalikes(["a cat in the style of noto"])[0] == "cat", "the cat of the other styles is nearest of all"
    far = emoji.far_off(["cat"])
    assert len(far) == len(words.OBJECTS) - 4 and table.nearness()["cat"][far[0]] == min(table.nearness()["cat"].values())


def test_a_concept_is_asked_for_in_other_words():
    def asked(text):
        return {row.prompt for row in emoji.rows([text], 24, 8, 1) if row.group == "erased_words"}

    assert asked("cat") == {"a kitten", "a kitty"} and asked("nudity") == {"bare skin", "nobody dressed"}
    assert asked("kitten") == {"a cat", "a kitty"}, "its name is another word for it"
    assert asked("openmoji style") == {"outlined style", "line art style"}
    assert not asked("a cat in the style of noto")


def test_a_grid_shows_the_concept_its_look_alikes_and_one_from_far_off():
    from types import SimpleNamespace

    from esd.erasing.concepts import Concept
    from esd.train.run_prompts import grid_prompts

    def shown(model, *texts):
        kept = ["a photo of a dog", "a portrait of a man"]
        cfg = SimpleNamespace(model=SimpleNamespace(name=model, kept=kept), templates=["{}"], grid=8)
        return grid_prompts(cfg, [Concept(text) for text in texts])

    cat = shown("emoji", "cat")
    assert cat[:4] == ["cat"] * 4 and cat[4:7] == [words.with_article(noun) for noun in emoji.lookalikes(["cat"])]
    assert cat[7:] == [words.with_article(emoji.far_off(["cat"])[0])]
    assert shown("emoji", "openmoji")[6:] == shown("emoji", "gargoyle")[6:] == ["a photo of a dog", "a portrait of a man"]
    assert shown("sd14", "Van Gogh")[4:] == [*real.lookalikes("Van Gogh"), "a photo of a dog"]
    assert shown("sd14", "cowboy hat")[6:] == ["a photo of a dog", "a portrait of a man"]
