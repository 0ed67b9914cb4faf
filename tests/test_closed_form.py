"""closed_form: a start at keys and values that are solved, for the concept's text states to go and the others' to stay."""

from __future__ import annotations

import pytest
import torch
from families import built

from esd import UserError, erase
from esd.erasing.closed_form import ClosedForm, solved
from esd.erasing.concepts import Concept, Draws

SPARED = ["a dog", "a fox", "a bus", "an apple", "a car", "a tree", "a whale", "a hat"]
KV = (r"\.attn2\.to_[kv]\.",)


def spread(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_minimum_of_what_it_says():
    asked, target, stays, w = spread(5, 8), spread(5, 8, seed=1), spread(30, 8, seed=2), spread(4, 8, seed=3)
    for mu in (0.1, 10.0):
        v = (w + w @ solved(asked, target, stays.T @ stays / len(stays), mu)).requires_grad_()
        goes = (asked @ v.T - target @ w.T).square().sum() / len(asked)
        remains = (stays @ (v - w).T).square().sum() / len(stays)
        (slope,) = torch.autograd.grad(goes + mu * remains, v)
        assert slope.abs().max() < 1e-4 * w.abs().max()  # but for the little that fills every direction


def test_the_weight_is_between_the_two_ends():
    """Alone the concept's states become the target's; against any weight, the others do not move."""
    asked, target, stays = spread(3, 8), spread(3, 8, seed=1), spread(30, 8, seed=2)
    c = stays.T @ stays / len(stays)
    torch.testing.assert_close(asked + asked @ solved(asked, target, c, 0.0).T, target, atol=1e-3, rtol=0)
    assert (stays @ solved(asked, target, c, 1e9).T).abs().max() < 1e-6


def moved(build, tiny, concept, weight=1e-6, spared=SPARED, templates=("{}",)):
    """(W before, W after) of every matrix that reads the text."""
    module, teacher, student, _, prompts = build([concept], include=KV, templates=templates)
    ClosedForm(tiny, student, prompts, 1, spared, weight).apply()
    before, after = (dict(network.named_parameters()) for network in (teacher, student))
    return [(before[name], after[name]) for name in module.trained]


def states(tiny, prompt):
    return tiny.encode([prompt])["encoder_hidden_states"][0]  # (S, d)


def far(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("eta", [0.0, 2.0])
def test_keys_and_values_of_the_concept_become_those_of_the_target(build, tiny, eta):
    c, null = states(tiny, "a cat"), states(tiny, "")
    target = null - eta * (c - null)
    for before, after in moved(build, tiny, Concept("a cat", eta=eta), spared=["a dog"]):
        assert far(c @ after.T, target @ before.T) < 0.8 * far(c @ before.T, target @ before.T)  # not all: few channels


def test_what_it_is_erased_from_is_asked_for_without_it(build, tiny):
    f, c, null = (states(tiny, text) for text in ("an animal", "a cat", ""))
    target = f - (c - null)
    for before, after in moved(build, tiny, Concept("a cat", erase_from="an animal"), spared=["a dog"]):
        assert far(f @ after.T, target @ before.T) < 0.8 * far(f @ before.T, target @ before.T)


def test_a_greater_weight_moves_the_others_less_and_the_concept_too(build, tiny):
    def changes(weight):
        each = moved(build, tiny, Concept("a cat"), weight, templates=("{}", "a photo of {}"))
        others = torch.cat([states(tiny, text) for text in SPARED])
        return [sum(far(e @ after.T, e @ before.T) for before, after in each) for e in (states(tiny, "a cat"), others)]

    (concept, others), (held_concept, held_others) = changes(0.1), changes(10.0)
    assert held_others < others and held_concept < concept and held_others / held_concept < others / concept


def test_steps_go_on_from_it(build, tiny):
    """Two runs agree bit for bit, and their first loss is below that of a run that starts at the model."""

    def first_loss(weight):
        module, _, student, _, prompts = build([Concept("a cat")], include=KV)
        if weight:
            ClosedForm(tiny, student, prompts, 1, SPARED, weight).apply()
        module.log_loss = lambda *args: None  # there is no trainer
        return module.training_step(next(iter(Draws(concepts=1, templates=1, positions=8, batch=8, seed=0))), 0).item()

    assert first_loss(0.1) == first_loss(0.1) < first_loss(0)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_no_step_at_all_leaves_it_at_that(family):
    short = {"sampling_steps": 3, "precision": "32-true", "progress": False, "layers": "kv"}
    given = {"closed_form": 10, "spared": ["a dog", "a fox"]}
    pipe = built(family)
    once, again = (erase(pipe, "a cat", steps=0, **given, **short) for _ in range(2))
    own = dict(pipe.unet.named_parameters())
    assert once.record["closed_form"] == 10 and once.record["steps"] == 0
    for name, tensor in once.tensors.items():
        assert torch.equal(tensor, again.tensors[name]) and not torch.equal(tensor, own[name])
    on = erase(pipe, "a cat", steps=1, lr=1e-4, **given, **short)
    assert all(0 < (on.tensors[name] - tensor).abs().max() < 2e-4 for name, tensor in once.tensors.items())


@pytest.mark.parametrize(
    "options, said",
    [
        ({"steps": 0}, "steps=0 must be a whole number, 1 or more"),
        ({"closed_form": 10}, "spare, closed_form and spared go together"),
        ({"closed_form": 10, "spared": ["a dog"], "lora_rank": 2}, "closed_form=10 is of whole weights"),
        ({"closed_form": 10, "spared": ["a dog"], "layers": "esd-u"}, "train none: closed_form=0, or layers=kv"),
    ],
)
def test_what_cannot_be_had_is_one_line(options, said):
    with pytest.raises(UserError, match=said):
        erase(built("sd15"), "a cat", **{"steps": 1, "sampling_steps": 3, "progress": False, **options})
