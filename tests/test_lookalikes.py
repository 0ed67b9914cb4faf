"""Look-alikes: the table for real models, and the embedded model's, which is computed from its pictures."""

from __future__ import annotations

import pytest

from esd.metrics.objects import IMAGENETTE
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
