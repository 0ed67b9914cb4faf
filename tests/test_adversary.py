"""robust: beside every example an adversary, which is erased with the concept."""

from __future__ import annotations

import pytest
import torch
from families import built
from hydra import compose, initialize_config_dir
from PIL import Image
from tiny import parts, trained_for
from torch.utils.data import DataLoader

from esd import UserError, erase
from esd.erasing.adversary import NEAR, STEP, TEXT, Adversary, Robust, rms
from esd.erasing.cache import Cache
from esd.erasing.concepts import Concept, Draws, preserved
from esd.erasing.erasure import erasure_loss
from esd.erasing.pictures import Pictures
from esd.files import CONF
from esd.models import load

OTHERS = ["a dog", "a fox", "a bus", "an apple"]
TWO = [Concept("pizza"), Concept("cat", erase_from="animal")]


def draws(**kwargs):
    return Draws(**{"concepts": 1, "templates": 1, "positions": 8, "batch": 4, "seed": 0, "staggered": True, **kwargs})


PIZZA = [Concept("pizza")]


def with_adversary(model, concepts=PIZZA, share=1.0, inner=1, batch=4, source="pool", **kwargs):
    module, _, student, sampler, prompts = parts(model, concepts, source=source, **kwargs)
    erased = sum(concept.eta > 0 for concept in concepts)
    module.adversary = Adversary(model, student, sampler, prompts, Robust(share, inner, OTHERS), batch, erased)
    module.log_loss = lambda *args: None
    return module


def examples(module, draw):
    with torch.inference_mode():
        x_t, eps_c, _, eps_f = module.trajectories.examples(draw)
    return x_t.clone(), eps_c.clone(), eps_f.clone()


def distance(module, q, draw, x_t, eps_c):
    """‖ε_θ(x_t, q, t) − ε_θ*(x_t, c, t)‖² of each example, and what the student says there."""
    c = module.prompts.condition(module.prompts.rows(module.prompts.c, draw))
    with torch.no_grad():
        eps = module.adversary.answer(q, draw, x_t, c)
    return erasure_loss(eps, eps_c), eps


def test_q_starts_where_no_text_names_the_concept(tiny):
    adversary = with_adversary(tiny, TWO).adversary
    states = tiny.encode(OTHERS)[TEXT]
    first = adversary.start(draws(concepts=2).at(0))  # (B, K, S, D)
    away = (first - states.mean(0)) / (NEAR * states.std(0, unbiased=False) + 1e-12)
    moves = (states != states[:1]).any(0).expand_as(away)  # the first token is every prompt's
    assert moves.any() and 0.8 < away[moves].std() < 1.2
    assert torch.equal(first[~moves], states.mean(0).expand_as(first)[~moves])
    own = first.flatten(0, 1)
    assert own.shape[0] == 8 and len({tuple(q.flatten().tolist()) for q in own}) == 8, "each has a start of its own"
    assert torch.equal(adversary.start(draws(concepts=2).at(0)), first), "a start is a function of the draw alone"


def test_a_step_is_a_normalised_gradient_step_down_to_what_the_teacher_says_of_c(tiny):
    module = with_adversary(tiny)
    draw = draws().at(0)
    x_t, eps_c, _ = examples(module, draw)
    adversary, c = module.adversary, module.prompts.condition(module.prompts.rows(module.prompts.c, draw))
    q = first = adversary.start(draw)[:, 0].flip(2)  # far from all texts
    for _ in range(10):
        before, q = q, adversary.step(q, draw, x_t, eps_c, c)
        torch.testing.assert_close(rms(q - before), STEP * rms(c[TEXT]))
    assert (distance(module, q, draw, x_t, eps_c)[0] < 0.7 * distance(module, first, draw, x_t, eps_c)[0]).all()
    assert all(p.grad is None for p in module.student.parameters()), "only q moves"


def test_each_place_of_the_batch_has_one_for_each_concept_which_outlives_its_walks(tiny):
    module = with_adversary(tiny, TWO)
    stream = draws(concepts=2, seed=1)
    module.adversary.error(stream.at(0), *examples(module, stream.at(0)))
    ended = 0
    for step in range(1, 20):
        before, draw = module.adversary.q.clone(), stream.at(step)
        module.adversary.error(draw, *examples(module, draw))
        moved = (module.adversary.q - before).square().mean((2, 3)).sqrt()  # (B, K)
        asked = torch.nn.functional.one_hot(draw.concept, 2).bool()
        assert (moved[~asked] == 0).all() and (moved[asked] > 0).all()
        states = module.prompts.condition(module.prompts.rows(module.prompts.c, draw))[TEXT]
        torch.testing.assert_close(moved[asked], STEP * rms(states).flatten(), rtol=1e-3, atol=0)  # one step on, no new start
        ended += int((draw.position == 0).sum())
    assert ended > 4


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_the_loss_is_cs_and_its_share_of_qs(tiny, share):
    """What preserves has no adversary, and weighs as ever."""
    concepts = [Concept("pizza"), *preserved(["a cat"], 5.0)]
    module = with_adversary(tiny, concepts, share=share, inner=2)
    draw = draws(preserved=1, preserved_batch=4).at(0)
    x_t, eps_c, eps_f = examples(module, draw)
    error = module.adversary.error(draw, x_t, eps_c, eps_f)
    assert module.adversary.q.shape[:2] == (4, 1) and error.shape == (8,) and (error[4:] == 0).all()
    four = draws().at(0)
    _, eps = distance(module, module.adversary.q[:, 0], four, x_t[:4], eps_c[:4])
    torch.testing.assert_close(error[:4], share * erasure_loss(eps, eps_f[:4]))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_student_learns_from_q(tiny, precision):
    """Also where autocast keeps cast weights: those of q's own steps, and those the student walked with."""
    module = with_adversary(tiny, walker="student")
    module.trajectories.examples(draws().at(0))
    module.trajectories.restore(None)
    weights = [p for p in module.student.parameters() if p.requires_grad]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        module.adversary.share = 0.0
        plain = torch.autograd.grad(module.training_step(draws().at(0), 0), weights)
        module.trajectories.restore(None)
        module.adversary.share, module.adversary.q = 1.0, None
        both = torch.autograd.grad(module.training_step(draws().at(0), 0), weights)
    assert sum((a - b).square().sum() for a, b in zip(plain, both, strict=True)) > 0
    before = {name: tensor.clone() for name, tensor in module.trained_tensors().items()}
    trained_for(module, draws(), 2, precision=precision)
    assert not [name for name, tensor in module.trained_tensors().items() if torch.equal(before[name], tensor)]


def test_only_who_asks_for_adversaries_has_them():
    """And they start at the mean of prompts that do not name the concept."""
    import esd.train.options  # noqa: F401  (registers the options' types)
    from esd.train.build import options_of

    def built_options(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return options_of(compose("train", ["concept=cat", *overrides]))

    assert built_options().robust is None
    robust = built_options("robust.share=0.5", "robust.inner=3").robust
    assert (robust.share, robust.inner) == (0.5, 3) and "a dog" in robust.others and "a cat" not in robust.others
    everyday = built_options("model=sd14", "robust.share=1").robust.others
    assert len(everyday) > 90 and not [prompt for prompt in everyday if "cat" in prompt.split()]


def lightning(steps):
    import pytorch_lightning as pl

    return pl.Trainer(
        max_steps=steps, limit_train_batches=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip


@pytest.mark.parametrize("source", ["pool", "student", "cache"])
def test_a_resumed_run_equals_the_straight_one_bit_for_bit(tiny_folder, tmp_path, source):
    options = {"concepts": 2, "staggered": source == "pool", "walks": 3 if source == "cache" else None}

    def fresh():
        its = Cache(walks=3, folder=tmp_path / "walks") if source == "cache" else source
        return with_adversary(load(str(tiny_folder), "tiny"), TWO, source=its, walker="student", inner=2)

    straight, first, second = fresh(), fresh(), fresh()
    trained_for(straight, draws(**options), 11)
    trained_for(first, draws(**options), 5).save_checkpoint(tmp_path / "step=5.ckpt")
    assert torch.load(tmp_path / "step=5.ckpt", weights_only=True)["adversary"].shape[:3] == (1, 4, 2)
    stream = DataLoader(draws(**options, start=5), batch_size=None)
    lightning(11).fit(second, stream, ckpt_path=tmp_path / "step=5.ckpt")
    assert torch.equal(straight.adversary.q, second.adversary.q)
    assert all(torch.equal(straight.trained_tensors()[name], second.trained_tensors()[name]) for name in straight.trained)


def test_two_devices_have_the_adversaries_of_one(tiny):
    one, halves = with_adversary(tiny), [with_adversary(tiny, batch=2) for _ in range(2)]
    for step in range(10):
        large = draws().at(step)
        found = one.adversary.error(large, *examples(one, large))
        small = [draws(batch=2, rank=rank, world=2).at(step) for rank in range(2)]
        both = [part.adversary.error(draw, *examples(part, draw)) for part, draw in zip(halves, small, strict=True)]
        torch.testing.assert_close(torch.cat(both), found, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(torch.cat([part.adversary.q for part in halves]), one.adversary.q, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["sd14", "sd21", "sdxl", "sd3", "flux"])
def test_every_family_has_adversaries(family):
    pipe = built(family)
    asked = {"steps": 3, "sampling_steps": 4, "lr": 1e-2, "batch": 2, "precision": "32-true", "progress": False}
    asked |= {"preserve": ["a car"], "erase_from": "food"}
    plain = erase(pipe, "a pizza", **asked)
    robust = erase(pipe, "a pizza", robust_share=1, robust_from=OTHERS, **asked)
    assert robust.record["robust"] == {"share": 1.0, "inner": 1} and plain.record["robust"] is None
    assert not any(torch.equal(plain.tensors[name], tensor) for name, tensor in robust.tensors.items() if "to_out" in name)
    assert all(tensor.isfinite().all() for tensor in robust.tensors.values())


def test_gradient_checkpointing_changes_nothing(tiny_folder):
    found = []
    for checkpointing in (False, True):
        module = with_adversary(load(str(tiny_folder), "tiny"))
        if checkpointing:
            module.student.enable_gradient_checkpointing()
        trained_for(module, draws(), 2)
        found.append(module.trained_tensors())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"robust_share": -1, "robust_from": OTHERS}, "robust.share=-1 must be a finite number, 0 or more"),
        ({"robust_share": 1, "robust_from": OTHERS, "robust_inner": 0}, "robust.inner=0 must be a whole number, 1 or more"),
        ({"robust_share": 1}, "robust_share and robust_from go together"),
    ],
)
def test_what_cannot_be_had_is_one_line(options, said):
    with pytest.raises(UserError, match=said) as caught:
        erase(None, "a pizza", **options)
    assert "\n" not in str(caught.value)


def test_pictures_have_adversaries_too(tiny, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    module = with_adversary(tiny, source=Pictures("student", str(tmp_path)))
    before = {name: tensor.clone() for name, tensor in module.trained_tensors().items()}
    trained_for(module, draws(), 3)
    assert not [name for name, tensor in module.trained_tensors().items() if torch.equal(before[name], tensor)]
    assert module.adversary.q.isfinite().all()
