from types import SimpleNamespace

import pytest
import torch

from esd.erasing.concepts import Concept, Draw, Draws, pair_up, preserved
from esd.erasing.prompts import PromptTable
from esd.erasing.run import Run
from esd.files import slug


def draws(**kwargs):
    return Draws(**{"concepts": 3, "templates": 2, "positions": 10, "batch": 4, "seed": 7, **kwargs})


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_concepts_and_what_they_are_erased_from_pair_up():
    assert [c.erase_from for c in pair_up(["a", "b"], ["x"], 1.0)] == ["x", "x"]
    assert [(c.text, c.erase_from) for c in pair_up(["a", "b"], ["x", "y"], 2.0)] == [("a", "x"), ("b", "y")]
    with pytest.raises(ValueError):
        pair_up(["a", "b", "c"], ["x", "y"], 1.0)


def test_a_preserved_prompt_is_erased_from_itself_by_nothing():
    (kept,) = preserved(["a cat"], 2.0)
    assert (kept.erase_from, kept.eta, kept.weight) == ("a cat", 0.0, 2.0)


PRESERVING = {"preserved": 2, "preserved_batch": 3}


@pytest.mark.parametrize(
    "options",
    [{}, {"staggered": True}, {"walks": 5}, PRESERVING, {**PRESERVING, "staggered": True, "stride": 3, "nearest": [4]}],
)
def test_a_batch_is_a_function_of_seed_and_step(options):
    straight, resumed = iter(draws(**options)), iter(draws(**options, start=3))
    for _ in range(3):
        next(straight)
    for _ in range(12):
        assert equal(next(straight), next(resumed))
    assert not equal(draws(**options).at(0), draws(**{**options, "seed": 8}).at(0))


@pytest.mark.parametrize("options", [{}, {"staggered": True}, {"staggered": True, "stride": 3, "nearest": [4]}])
def test_devices_share_out_the_batch_of_one_large_device(options):
    large = draws(batch=4, preserved=2, preserved_batch=2, **options)
    small = [draws(batch=2, preserved=2, preserved_batch=1, rank=r, world=2, **options) for r in range(2)]
    for step in (0, 5, 23):
        both = [part.at(step) for part in small]
        erase = [torch.cat([b[field][:2] for b in both]) for field in range(4)]
        preserve = [torch.cat([b[field][2:] for b in both]) for field in range(4)]
        assert equal(large.at(step), [torch.cat(pair) for pair in zip(erase, preserve, strict=True)])


def test_staggered_draws_spread_over_the_schedule_and_move_on_by_one():
    d = draws(staggered=True, batch=5)
    assert d.at(0).position.tolist() == [0, 2, 4, 6, 8]
    for step in range(30):
        here, there = d.at(step), d.at(step + 1)
        assert torch.equal(there.position, (here.position + 1) % 10)
        going = there.position != 0
        assert torch.equal(here.noise[going], there.noise[going]) and torch.equal(here.concept[going], there.concept[going])
        assert (here.noise[~going] != there.noise[~going]).all()


def test_walks_of_what_is_preserved_move_on_in_strides():
    d = draws(staggered=True, batch=2, preserved=40, preserved_batch=4, stride=3)
    assert d.at(0).position.tolist() == [0, 5, 0, 3, 6, 9]
    met = set()
    for step in range(40):
        here, there = (Draw(*(part[2:] for part in d.at(s))) for s in (step, step + 1))
        assert torch.equal(there.position, (here.position + 3) % 12)
        going = there.position != 0
        assert torch.equal(here.noise[going], there.noise[going]) and torch.equal(here.concept[going], there.concept[going])
        met |= set(here.concept.tolist())
    slow = draws(staggered=True, batch=2, preserved=40, preserved_batch=4)
    assert len(met) > 1.5 * len({k for step in range(40) for k in slow.at(step).concept[2:].tolist()})


def test_half_of_the_examples_that_preserve_are_of_the_nearest():
    d = draws(preserved=40, preserved_batch=100, nearest=[5, 9])
    drawn = torch.cat([d.at(step).concept[4:] for step in range(5)])
    near = (drawn == 5) | (drawn == 9)
    assert 0.4 < near.float().mean() < 0.65 and len(drawn[~near].unique()) == 38
    assert (torch.cat([d.at(step).concept[:4] for step in range(20)]) < 3).all()


def test_the_nearest_are_those_whose_texts_are_most_like_the_concepts():
    from esd.emoji import words
    from esd.models import load

    others = [words.with_article(noun) for noun in words.OBJECTS if noun != "cat"]
    concepts, kept = [Concept("a cat")], preserved(others, 1.0)
    run = SimpleNamespace(
        options=SimpleNamespace(concepts=concepts, preserved=kept),
        prompts=PromptTable(load(None, "emoji"), concepts + kept, ["{}"]),
    )
    found = {others[k - 1] for k in Run.nearest_preserved(run)}
    assert len(found) == 6 and {"a dog", "a fox"} < found
    run.options.preserved = []
    assert Run.nearest_preserved(run) == []


def test_uniform_draws_reach_every_position_and_concept():
    d = draws(batch=100)
    batches = [d.at(step) for step in range(10)]
    assert set(torch.cat([b.position for b in batches]).tolist()) == set(range(10))
    assert set(torch.cat([b.concept for b in batches]).tolist()) == {0, 1, 2}
    assert set(torch.cat([b.template for b in batches]).tolist()) == {0, 1}


def test_preserving_rows_come_last_and_draw_preserved_concepts():
    batch = draws(preserved=2, preserved_batch=3).at(4)
    assert (batch.concept[:4] < 3).all() and (batch.concept[4:] >= 3).all() and len(batch.concept) == 7


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Van Gogh", "van-gogh"),
        ("../../etc/passwd", "etc-passwd"),
        ("", "run"),
        ("🍕", "run"),
        ("a\nb", "a-b"),
        (["x", "y"], "x-y"),
    ],
)
def test_a_concept_never_becomes_a_path(text, name):
    assert slug(text) == name
    assert len(slug("x" * 500)) <= 40
