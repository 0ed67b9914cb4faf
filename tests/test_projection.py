"""spare: what a step changes is kept out of what other prompts' texts share with the concept's."""

from __future__ import annotations

import pytest
import torch
from tiny import trained_for

from esd import UserError, erase
from esd.erasing.cache import Cache
from esd.erasing.concepts import Concept, Draws
from esd.erasing.layers import LayerRule
from esd.erasing.projection import Projection, nearest, projection

KV = (r"\.attn2\.to_[kv]\.",)
SPARED = ["a dog", "a fox", "a bus", "an apple", "a car", "a tree", "a whale", "a hat"]


def spread(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_p_lets_through_what_no_prompt_has_and_stops_what_all_have():
    states = spread(20, 3, 8)
    states[..., 5:] = 0  # three directions that no prompt to stay has
    p = projection(spread(1, 3, 8, seed=1), states, 1e-3)
    torch.testing.assert_close(p, p.T, atol=1e-6, rtol=1e-5)
    values = torch.linalg.eigvalsh(p)
    assert values.min() > 0 and values.max() <= 1 + 1e-6
    torch.testing.assert_close(p[5:, 5:], torch.eye(3))  # λ·(0 + λ)⁻¹
    assert p[:5, :5].diagonal().max() < 0.01
    torch.testing.assert_close(projection(states[:1], states, 1e6), torch.eye(8), atol=1e-4, rtol=0)  # spare → ∞: all freely


def test_the_nearest_prompts_weigh_most():
    concept, far = spread(1, 3, 8), spread(30, 3, 8, seed=2)
    near = concept + 0.1 * spread(2, 3, 8, seed=3)
    states = torch.cat([far, near])
    assert {30, 31} <= set(nearest(concept, states).tolist())
    lets = [((near @ projection(concept, of, 0.01)) * near).sum() / near.square().sum() for of in (far, states)]
    assert lets[1] < 0.7 * lets[0]


def changes(build, tiny, spare, spared=SPARED):
    """How much eight steps change W·e, of "a cat" and of the spared prompts, in all matrices that read the text."""
    module, teacher, student, *_ = build([Concept("a cat")], include=KV, lr=0.05)
    if spare:
        module.projection = Projection(tiny, student, ["a cat"], spared, spare)
    trained_for(module, Draws(concepts=1, templates=1, positions=8, batch=4, seed=0), 8)
    before, after = (dict(network.named_parameters()) for network in (teacher, student))
    moved = [after[name] - before[name] for name in module.trained]
    assert all(w.abs().sum() > 0 for w in moved)
    of = lambda prompts: tiny.encode(prompts)["encoder_hidden_states"].flatten(0, 1)  # noqa: E731
    norms = [sum((e @ w.T).square().mean() for w in moved).sqrt() for e in (of(["a cat"]), of(spared))]
    return norms, moved, module


def test_a_run_changes_the_others_keys_and_values_less_beside_the_concepts(build, tiny):
    (concept, others), *_ = changes(build, tiny, 0)
    (concept_spared, others_spared), moved, module = changes(build, tiny, 0.05)
    assert others_spared / concept_spared < 0.9 * others / concept
    with torch.no_grad():  # and every change is a change through P
        again = [w @ torch.linalg.inv(module.projection.p.double()).float() @ module.projection.p for w in moved]
    for w, same in zip(moved, again, strict=True):
        torch.testing.assert_close(same, w, atol=1e-4, rtol=1e-2)


def test_it_is_a_function_of_the_prompts_alone(build, tiny):
    """Two runs agree bit for bit: there is nothing of it to keep in a checkpoint."""
    once, again = (changes(build, tiny, 0.05)[1] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_layers_that_read_no_text_are_told_what_to_do(build, tiny):
    module, _, student, *_ = build([Concept("a cat")], include=(r"\.attn1\.",))
    with pytest.raises(UserError, match="train none: spare=0, or layers=kv"):
        Projection(tiny, student, ["a cat"], SPARED, 0.05)


@pytest.mark.parametrize("option", [{"spare": 0.05}, {"closed_form": 10.0}])
def test_what_reads_the_text_is_prepared_before_walks_are_rolled_out(tiny, tmp_path, option):
    """A cache sends the frozen model to the CPU, and with it what the student shares: P would be computed there."""
    begun = []

    class Watched(Cache):
        def begin(self, denoisers, advance):
            begun.append(denoisers)
            return super().begin(denoisers, advance)

    walks, nowhere = Watched(walks=1, folder=tmp_path), LayerRule("own", include=[r"\.attn1\."])
    with pytest.raises(UserError, match="train none"):
        erase(tiny.base, "a cat", layers=nowhere, trajectories=walks, steps=1, sampling_steps=4, spared=SPARED, **option)
    assert not begun
