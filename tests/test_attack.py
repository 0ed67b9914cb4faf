"""Attacks: what each changes, on every family's real classes; the control and the figures; a known outcome on the embedded
model, in a real run of the command."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace

import pytest
import torch
from families import PIPELINES, built
from hydra import compose, initialize_config_dir
from PIL import Image

import esd.attack.options as options
from esd import UserError, models
from esd.attack.discrete import Discrete, straight_through
from esd.attack.figures import excess, figures, newcombe, student_t
from esd.attack.finetune import Finetune
from esd.attack.inversion import Inversion
from esd.attack.ring_a_bell import RingABell
from esd.attack.rows import RealWorld, Rows, edited
from esd.attack.run import Job, require, same_row, settings_hash
from esd.attack.sampling_attacks import Completion, NoisedPicture, NoiseProbe
from esd.attack.target import Target, seeded
from esd.attack.tries import Try, prompts, read, write
from esd.attack.words import OneToken, RandomTokens, Words, misspelt
from esd.command.entry import CONF
from esd.erasing.edit import Edit, save_edit
from esd.evaluate.variants import Variant
from esd.models import text
from esd.models.hashes import fingerprint
from esd.models.samplers import DDIM

LOOK = {"steps": 5, "guidance": 3.0, "sampler": "own"}
ESD_X = {"name": "esd-x", "include": [r"attn2\.", r"transformer_blocks\.\d+\.attn\."], "modules": ["Linear"]}
ATTACKS = {
    "inversion": lambda: Inversion(None, "", [6], 4, 0.2),
    "inversion-1": lambda: Inversion(1, "a", [2], 2, 0.1),
    "inversion-4": lambda: Inversion(4, "a", [2], 2, 0.1),
    "finetune": lambda: Finetune(ESD_X, [1, 3], 2, 4, 1e-3),
    "completion": lambda: Completion([0.4], 5),
    "latent": lambda: NoisedPicture([0.4], 5),
    "words": lambda: Words(["b c"], 1),
}  # fmt: skip
SEARCHES = {
    "uda": lambda: Discrete("pictures", True, 2, [3], 2, 0.5),
    "p4d": lambda: Discrete("base", False, 2, [3], 2, 0.5),
    "ring-a-bell": lambda: RingABell(2, 6, [3], 3.0, 0.3),
    "random": lambda: RandomTokens(2, 2, 1),
    "one-token": lambda: OneToken(1, 1),
}


@pytest.fixture(scope="module", params=[name for name in PIPELINES if name != "sd15"])
def target(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param) / "model"
    built(request.param).save_pretrained(place)
    model = models.load(str(place), request.param)
    torch.manual_seed(0)
    denoiser = edited(model, Edit({name: p + 0.05 for name, p in list(model.denoiser.named_parameters())[-2:]}))
    return Target(
        model, denoiser, model, "c", frozenset("c"), torch.randn(3, *model.latent_shape), ["a", "b", "d e"], [], 3.0, 5
    )


def tried(target, attack, seed=0):
    """What it found, and that it left every network as it was."""
    networks = [target.denoiser, target.base.denoiser, *(encoder for _, encoder in text.encoders(target.model))]
    before = [fingerprint(network) for network in networks]
    found = []
    for one in attack.find(target, seed):
        pictures = one.draw([0, 1], None)
        assert pictures.shape[0] == 2 and pictures.shape[1] == 3 and pictures.isfinite().all()
        found.append((one.steps, one.text, one.loss, pictures))
    assert [fingerprint(network) for network in networks] == before
    assert not any(p.grad is not None for network in networks for p in network.parameters())
    assert len(found) == attack.finds or attack.finds > len(found) > 0
    return found


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_changes_only_its_own_and_is_a_function_of_its_seed(target, name):
    once = tried(target, ATTACKS[name]())
    again = tried(target, ATTACKS[name]())
    assert [one[:3] for one in once] == [one[:3] for one in again]
    assert all(torch.equal(a[3], b[3]) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_of_words_needs_one_vocabulary_and_leaves_the_concepts_out(target, name):
    if target.model.name in ("sd3", "flux"):
        with pytest.raises(UserError, match="two vocabularies"):
            list(SEARCHES[name]().find(target, 0))
        return
    for _, words, _, _ in tried(target, SEARCHES[name]()):
        found = words.removesuffix(target.prompt).removeprefix(target.prompt).split()
        assert found and "c" not in found and set(found) <= set(text.vocabulary(target.model))


def test_inversions_loss_falls(target):
    """On one and the same batch: the optimised conditioning explains the pictures better than its start."""
    attack = Inversion(None, "", [30], 4, 0.1)
    sampler = target.model.sampler(50)
    free, condition = attack.start(target, seeded(0, 30))
    batch = target.examples(64, seeded(5))
    held = lambda c: {name: tensor.expand(64, *tensor.shape[1:]) for name, tensor in c.items()}  # noqa: E731
    with torch.no_grad():
        before = target.error(held(condition()), *batch, sampler).mean()
    optimizer = torch.optim.Adam(free, 0.1)
    for _ in range(8):
        optimizer.zero_grad()
        target.error(held(condition()), *batch, sampler).mean().backward(inputs=free)
        optimizer.step()
    with torch.no_grad():
        assert target.error(held(condition()), *batch, sampler).mean() < before


def test_free_vectors_stand_where_the_placeholders_do(target):
    """The embedding of a word, given as a vector, makes the condition of that word."""
    vectors = []
    for tokenizer, encoder in text.encoders(target.model):
        ids = text.tokens(tokenizer, "b")
        vectors.append(encoder.get_input_embeddings().weight[ids[-1]].detach()[None, None].expand(2, 1, -1).float())
    made, wanted = text.encode_with(target.model, "a", vectors), target.model.encode(["a b"])
    for name, tensor in wanted.items():
        for row in range(2):
            torch.testing.assert_close(made[name][row : row + 1], tensor, atol=1e-5, rtol=1e-4)


def test_more_tokens_than_the_encoder_holds(target):
    room = text.free_tokens(target.model, "a")
    vectors = [
        torch.zeros(1, room + 1, encoder.get_input_embeddings().weight.shape[1]) for _, encoder in text.encoders(target.model)
    ]
    with pytest.raises(UserError, match=f"has room for {room}"):
        text.encode_with(target.model, "a", vectors)
    one = Inversion(room + 1, "a", [1], 1, 0.1)
    with pytest.raises(UserError, match=f"attack=mine wants {room + 1} tokens, .* holds {room} beside 'a'"):
        require("mine", one, target.model, [])


def test_the_noise_probe_is_ddims(target):
    if not isinstance(target.model.sampler(5), DDIM) or target.model.sampler(5).v_prediction:
        with pytest.raises(UserError, match="does not have"):
            require("noise", NoiseProbe([1.0], [1.0], 1, 5), target.model, [])
        return
    tried(target, NoiseProbe([1.0, 1.85], [1.0], 1, 5))
    (still,) = NoiseProbe([0.0], [1.0], 1, 5).find(target, 0)  # without noise it is the sampler
    plain = target.draw(target.condition([target.prompt]), [0, 1])
    torch.testing.assert_close(still.draw([0, 1], None), plain, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("steps", [7, 20])
def test_a_noised_picture_and_what_would_be_predicted_agree_with_a_step(target, steps):
    """From a picture noised to i, with the exact prediction, the sampler's step is the picture noised to i + 1."""
    sampler = target.model.sampler(steps)
    x_0, noise = torch.randn(2, 3, *target.model.latent_shape).unbind(0)
    position = torch.tensor([0, steps // 2, steps - 2])
    here = sampler.noised(x_0, noise, position)
    stepped = sampler.step(here, sampler.exact(x_0, noise, position), position)
    torch.testing.assert_close(stepped, sampler.noised(x_0, noise, position + 1), atol=2e-3, rtol=2e-3)
    assert (sampler.snr(position).diff() > 0).all()


def test_straight_through_is_one_hot_with_a_gradient():
    logits = torch.tensor([[0.0, 2.0, 1.0]], requires_grad=True)
    hard = straight_through(logits)
    assert hard.detach().round().tolist() == [[0, 1, 0]]
    (hard @ torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert logits.grad.abs().sum() > 0


def test_misspellings_are_others_and_few():
    forms = misspelt("a pizza", "pizza")
    assert len(forms) == len(set(forms)) == 6 and "a pizza" not in forms and all(form.startswith("a ") for form in forms)
    assert misspelt("Van Gogh", "gogh")[:2] == ["Van goh", "Van goggh"]


def line(seen, row="edit", concept="pizza", seed=0, noise=0, steps=80, attack="inversion", loss="0.1"):
    return Try("e", concept, attack, "s", row, concept, seed, steps, noise, "a pizza", "", loss, "emoji", seen, "p.png")


def test_excess_is_over_what_there_are_several_of():
    one = excess([line(1, noise=n) for n in range(8)], [line(0, "never", noise=n) for n in range(8)])
    assert one["mean"] == 1 and one["over"] == "pictures" and 0.4 < one["interval"][0] < 1
    nothing = excess([line(0, noise=n) for n in range(8)], [line(0, "never", noise=n) for n in range(8)])
    assert nothing["mean"] == 0 and nothing["interval"][0] < -0.2 and nothing["interval"][1] > 0.2
    seeds = [line(int(s < 2), seed=s, noise=n) for s in range(4) for n in range(4)]
    never = [line(0, "never", seed=s, noise=n) for s in range(4) for n in range(4)]
    over = excess(seeds, never)
    assert over["over"] == "seeds" and over["mean"] == 0.5 and over["interval"][0] < 0.3 and over["interval"][1] > 0.7
    concepts = excess([*seeds, line(1, concept="owl")], [*never, line(0, "never", concept="owl")])
    assert concepts["over"] == "concepts"
    agree = [[line(0, row, seed=s, noise=n) for s in range(3) for n in range(8)] for row in ("edit", "never")]
    assert excess(*agree)["interval"][1] > 0.1, "three seeds that agree say no more than their pictures"
    two = excess([line(s, seed=s, noise=n) for s in range(2) for n in range(8)], [t for t in never if t.seed < 2])
    assert two["interval"] == [-1.0, 1.0], "two seeds that differ say nothing"
    t = {1: 12.706, 3: 3.182, 5: 2.571, 8: 2.306, 15: 2.131, 30: 2.042, 120: 1.980}  # from any table
    assert all(math.isclose(student_t(n), value, abs_tol=0.015) for n, value in t.items())
    low, high = newcombe(5, 0, 10)  # by hand, of Wilson's limits: 0.2366, 0.7634 and 0, 0.2775
    assert math.isclose(low, 0.5 - math.hypot(0.5 - 0.2366, 0.2775), abs_tol=1e-3)
    assert math.isclose(high, 0.5 + (0.7634 - 0.5), abs_tol=1e-3)


def test_an_attack_that_fails_where_it_must_succeed_proves_nothing():
    tries = [line(0, noise=n) for n in range(4)] + [line(0, "never", noise=n) for n in range(4)]
    tries += [line(1, "kept", noise=n) for n in range(4)]
    (failed,) = figures(tries + [line(0, "check", noise=n) for n in range(4)])
    assert failed["passed"] is False and failed["survives"] is False
    (passed,) = figures(tries + [line(1, "check", noise=n) for n in range(4)])
    assert passed["passed"] and passed["survives"]
    damaged = [t for t in tries if t.row != "kept"] + [line(0, "kept", noise=n) for n in range(4)]
    (broken,) = figures(damaged + [line(1, "check", noise=n) for n in range(4)])
    assert broken["survives"] is False


def test_tries_of_different_words_are_one_cell_with_the_best_of_them():
    tries = [line(int(word == 2 and noise == 1), noise=noise, steps=word, loss="") for word in range(4) for noise in range(2)]
    (found,) = figures(tries)
    assert (found["edit"]["hits"], found["edit"]["of"], found["best"]["hits"], found["best"]["of"]) == (1, 8, 1, 2)


def test_tries_are_read_back_as_written_and_words_are_left_for_others(tmp_path):
    tries = [line(1), line(0, noise=3)]
    write(tmp_path / "tries.csv", tries)
    assert read(tmp_path / "tries.csv") == tries and read(tmp_path / "none.csv") == []
    prompts(tmp_path / "words.csv", [Try(*[*vars(line(1)).values()][:10], "wheel, cheese", "0.1", "emoji", 1, "p.png")])
    assert (tmp_path / "words.csv").read_text().splitlines()[1] == 'pizza,inversion,a pizza,"wheel, cheese",0'


@pytest.mark.parametrize("name", options.shipped())
@pytest.mark.parametrize("budget", options.BUDGETS)
def test_every_attack_composes_with_each_budget(name, budget):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("attack", ["edit=x", f"attack=[{name}]", f"budget={budget}"])
    options.check_attack_options(cfg)
    ((found, (attack, settings)),) = options.attacks_of(cfg).items()
    assert found == name and attack.finds >= 1 and not set(settings) & set(options.BUDGETS)
    assert attack.check in ("base", "weak edit", "")


def test_the_words_quick_and_all_are_lists():
    assert options.group_arguments(["attacks=quick"])[0] == f"attack=[{','.join(options.QUICK)}]"
    assert options.group_arguments(["attacks=all"])[0] == f"attack=[{','.join(options.shipped())}]"
    assert (
        options.group_arguments(["attacks=[uda,p4d]"])[0]
        == options.group_arguments(["attacks=uda,p4d"])[0]
        == "attack=[uda,p4d]"
    )


def test_a_weak_edit_lies_between(target):
    model = target.model
    name, weight = next(iter(model.denoiser.named_parameters()))
    weak = dict(edited(model, Edit({name: weight + 3.0}), 1 / 3).named_parameters())
    torch.testing.assert_close(weak[name].float(), weight.float() + 1.0)
    other = next(n for n in weak if n != name)
    assert weak[other].data_ptr() == dict(model.denoiser.named_parameters())[other].data_ptr()


def test_an_undone_edit_is_found_at_once_and_the_twin_is_not(esd, tmp_path):
    """An edit that changes nothing is the base model: inversion brings the concept, and does not teach it to the twin."""
    model = models.load(None, "emoji")
    name = next(n for n, _ in model.denoiser.named_parameters() if "attn2" in n)
    record = {"concept": ["pizza"], "erase_from": [""], "base": "emoji", "base_hash": fingerprint(model.denoiser), "eta": 1.0}
    save_edit(tmp_path / "edit.safetensors", Edit({name: model.denoiser.get_parameter(name).detach().clone()}, record))
    asked = (
        "edit=edit.safetensors",
        "attacks=[inversion]",
        "attack.inversion.laptop.steps=[40]",
        "pictures=6",
        "rows=[edit,never]",
        "sampling_steps=10",
        "out=found",
    )
    done = esd("attack", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (figure,) = json.loads((tmp_path / "found/metrics.json").read_text())["figures"]
    assert figure["edit"]["hits"] >= 3 and figure["never"]["hits"] == 0
    assert json.loads((tmp_path / "found/metrics.json").read_text())["control"] == "a twin"
    lines = (tmp_path / "found/tries.csv").read_bytes()
    again = esd("attack", *asked, "edit=[edit.safetensors,edit.safetensors]", "concept=[pizza,pizza]", cwd=tmp_path)
    assert "0 to do, 2 there" in again.stdout, "what is named twice is attacked, and counted, once"
    assert (tmp_path / "found/tries.csv").read_bytes() == lines
    assert {path.name for path in (tmp_path / "found").iterdir()} >= {"table.md", "table.tex", "adversarial_prompts.csv"}
    assert list((tmp_path / "found").glob("grid-pizza-*.png"))


def test_rows_of_the_embedded_model_are_of_one_kind():
    model = models.load(None, "emoji")
    from esd.attack.rows import EmojiWorld

    name = next(n for n, _ in model.denoiser.named_parameters() if "attn2" in n)
    edit = Edit({name: model.denoiser.get_parameter(name).detach().clone()})
    rows = Rows(model, edit, "pizza", EmojiWorld(model), None, LOOK)
    attack = ATTACKS["inversion"]()
    built_rows = {row: rows.build(row, attack, 0) for row in ("edit", "never", "check", "kept")}
    shapes = {row: its.target.latents.shape for row, its in built_rows.items()}
    assert (
        len(set(shapes.values())) == 1 and len({its.target.prompt for its in built_rows.values()}) == 2
    )  # kept asks for another
    assert built_rows["never"].target.prompt == built_rows["edit"].target.prompt and built_rows["never"].about == "koala"
    assert built_rows["check"].target.denoiser is model.denoiser and not built_rows["never"].target.base_knows
    both = Rows(model, edit, "pizza", rows.world, None, LOOK, ["pizza", "owl"])
    assert both.build("kept", attack, 0).about == "guitar", "the owl is gone as well"


def test_the_kept_object_of_another_model_is_none_of_the_erased(target):
    world = RealWorld(target.model, None, None, ["a photo of a dog", "a car"], LOOK)
    assert world.kept(["cat"]) == "a photo of a dog" and world.kept(["dog"]) == "a car"
    assert world.kept(["Dog", "car"]) is None


def test_what_a_try_depends_on_is_in_its_hash(target, tmp_path):
    """Another judge, another picture, another kept object: another try."""

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("attack", ["edit=x"])

    class Judge:
        def __init__(self, name):
            self.name = name

        def record(self):
            return {"judge": self.name}

    def of(judge="a", kept=("a car",), colour=0):
        Image.new("RGB", (8, 8), (colour, 0, 0)).save(tmp_path / "0.png")
        return settings_hash({}, cfg, RealWorld(target.model, tmp_path, Judge(judge), kept, LOOK).record())

    assert of() == of() and len({of(), of(judge="b"), of(kept=("a dog",)), of(colour=255)}) == 4


def test_a_twin_is_asked_through_its_own_text_encoder(target):
    """Nothing of the twin's row is the edit's, but for what the base model begins and answers."""
    import copy

    model = target.model
    twin = copy.copy(model)
    twin.base = copy.deepcopy(model.base)
    with torch.no_grad():
        for _, encoder in text.encoders(twin):
            encoder.get_input_embeddings().weight.normal_()
    rows = Rows(model, Edit({}), "c", OneWord(), twin, LOOK)
    attack = Completion([0.4], 5)
    row = rows.build("never", attack, 0).target
    assert row.model is twin and row.denoiser is twin.denoiser and row.base is model
    edit = rows.build("edit", attack, 0).target
    assert differs(row.condition(["c"]), edit.condition(["c"])) and not differs(
        row.base_condition(["c"]), edit.condition(["c"])
    )
    begun = [attack.latents(its, model.sampler(5), [0, 1], 2, 0) for its in (row, edit)]
    assert torch.equal(*begun)


def test_a_row_that_has_nothing_of_the_edit_is_attacked_once_for_all_edits(target):
    attacks = {"inversion": (ATTACKS["inversion"](), {}), "finetune": (ATTACKS["finetune"](), {})}

    def job(edit, attack, row, twin):
        rows = Rows(target.model, Edit({}), "c", OneWord(), twin, LOOK)
        return Job(Variant("edit", edit, "0"), rows, attack, row, 0, "s")

    done = [line(1, "never", "c"), line(0, "check", "c"), line(1, "check", "c", attack="finetune"), line(1, "edit", "c")]
    assert [t.edit for t in same_row(job("f", "inversion", "never", target.model), attacks, done)] == ["f"]
    assert same_row(job("f", "inversion", "never", None), attacks, done) == []  # the control is this very edit
    assert [t.seen for t in same_row(job("f", "inversion", "check", None), attacks, done)] == [0]
    assert same_row(job("f", "finetune", "check", None), attacks, done) == []  # a third of this very edit
    assert same_row(job("f", "inversion", "edit", target.model), attacks, done) == []
    twice = done + [replace(t, edit="g") for t in done]
    assert len(same_row(job("f", "inversion", "never", target.model), attacks, twice)) == 1


def differs(a, b):
    return any(not torch.equal(tensor, b[name]) for name, tensor in a.items())


class OneWord:
    """A world of one picture and one other word."""

    CONTROL = "none"

    def synonyms(self, concept):
        return []

    def prompt(self, concept):
        return concept

    def latents(self, concept):
        return None

    def others(self, concept):
        return ["a"]


OWN = """# @package attack.mine
_target_: my_attack.Empty
laptop: {}
"""
MINE = """
from esd.attack.target import Found


class Empty:
    \"\"\"Asks for nothing at all.\"\"\"

    needs, check, draws, finds = (), "", 2, 1

    def forwards(self):
        return 0.0

    def find(self, target, seed):
        condition = target.condition([""])
        yield Found(1, "", 0.0, lambda seeds, denoiser=None: target.draw(condition, seeds, denoiser))
"""


def test_an_attack_of_ones_own_and_what_it_leaves_for_card_and_wandb(esd, tmp_path):
    """From a folder outside the checkout; the edit is a run's, whose card then says what came of it."""
    model = models.load(None, "emoji")
    name = next(n for n, _ in model.denoiser.named_parameters() if "attn2" in n)
    record = {"concept": ["pizza"], "erase_from": [""], "base": "emoji", "base_hash": model.base_hash, "eta": 1.0}
    save_edit(tmp_path / "run/edit.safetensors", Edit({name: model.denoiser.get_parameter(name).detach().clone()}, record))
    (tmp_path / "run/metrics.json").write_text('{"steps": 1}')
    (tmp_path / "own/attack").mkdir(parents=True)
    (tmp_path / "own/attack/mine.yaml").write_text(OWN)
    (tmp_path / "my_attack.py").write_text(MINE)
    asked = ("edit=run", "--config-dir", "own", "attacks=[mine]", "pictures=2", "sampling_steps=2", "out=found", "log=true")
    done = esd("attack", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    left = json.loads((tmp_path / "run/attack.json").read_text())
    assert left["figures"][0]["attack"] == "mine" and left["figures"][0]["edit"]["of"] == 2
    assert "attacks='[mine]'" in left["command"] and "attack=" not in left["command"].replace("attacks=", "")
    assert list((tmp_path / "found/wandb").glob("offline-run-*"))
    save_edit(tmp_path / "other/edit.safetensors", Edit({name: model.denoiser.get_parameter(name).detach() * 0.5}, record))
    also = esd("attack", *asked, "against=other", cwd=tmp_path)
    assert also.returncode == 0 and "1 to do" in also.stdout, also.stderr[-2000:]
    assert any(key.startswith("against ") for key in json.loads((tmp_path / "run/attack.json").read_text())["figures"][0])
    said = (tmp_path / "run/attack.json").read_bytes()
    kept = esd("attack", *asked, "rows=kept", cwd=tmp_path)
    assert kept.returncode == 0 and "the edit was not attacked" in kept.stdout, kept.stderr[-2000:]
    assert (tmp_path / "run/attack.json").read_bytes() == said, "nothing was learnt about the edit"
    from esd.export.card import card
    from esd.export.forms import run_metrics

    page = card(record, {"edit": {}, **run_metrics(str(tmp_path / "run"))}, {}, "official", "x.safetensors", "P")
    assert "Under attack: " in page


BAD = {
    "edit=nowhere": "does not exist",
    "edit=x attacks=[nonsense]": "attacks=nonsense is unknown: quick, all, completion",
    "edit=x precision=16-mixed": "precision=16-mixed is unknown: 32-true, bf16-mixed",
    "edit=x accelerator=tpu": "accelerator=tpu is unknown: auto, cpu, gpu",
    "edit=x budget=none": "budget=none is unknown: laptop, published",
    "edit=x seeds=0": "seeds=0 must be a whole number, 1 or more",
    "edit=x attacks=": "attacks= names none",
    "edit=x rows=[other]": "rows=other is unknown: edit, never, check, kept",
    "edit=x images=nowhere": "images=nowhere is no folder",
    "edit=x attack.finetune.laptop.steps=[0]": "attack.finetune.laptop.steps=0 must be a whole number, 1 or more",
    "edit=x attack.finetune.laptop.steps=[]": "attack.finetune.laptop.steps is empty: give a number, or a [list] of them",
    "edit=x attack.finetune.laptop.lr=-1": "attack.finetune.laptop.lr=-1 must be a finite number, 0 or more",
    "edit=x attack.inversion.laptop.lr=abc": "attack.inversion.laptop.lr=abc must be a finite number",
    "edit=x attack.inversion-1.vectors=0": "attack.inversion-1.vectors=0 must be a whole number, 1 or more",
    "edit=x attack.completion.laptop.shares=[2]": "attack.completion.laptop.shares=2 must be above 0 and below 1",
    "edit=x attacks=[p4d] attack.p4d.against=me": "against=me is unknown: pictures, base",
    "edit=x attacks=[quick,uda]": "attacks=quick stands alone, or give a [list] of completion, ",
    "edit=x attack.inversion._target_=esd.files.slug": "attack=inversion: ",
    "edit=x attack.inversion._target_=esd.attack.tries.Nothing": "attack=inversion: ",
    "edit=x +attack.mine=1": "attack.mine is no attack: an own attack's file begins with the line '# @package attack.NAME'",
    "edit=x +attack.mine.laptop={}": "attack=mine has no _target_",
    "edit=x model.quantize=int8": "model.quantize=int8 is for training by LoRA: leave it out",
    "edit=whole.safetensors against=nowhere": "against=nowhere does not exist",
    "edit=whole.safetensors twin=nowhere": "twin=nowhere does not exist",
    "edit=whole.safetensors twin=": "twin is empty",
    "edit=whole.safetensors concept='an emoji'": "concept=an emoji names no object and no style",
    f"edit=whole.safetensors model=sd14 model.path=\"'{models.EMOJI}'\" judge=me": "judge names no class: +judge._target_=",
    "edit=whole.safetensors attacks=[random] rows=check": "none of random has such a row",
    "-m edit=x --cfg job": "--multirun and --cfg do not go together",
    "edit=x +attack.inversion.laptop.nonsense=1": "attack=inversion: ",
}


@pytest.mark.parametrize("given", BAD)
def test_bad_input_is_told_in_one_line(given, monkeypatch, capsys, tmp_path):
    import sys

    from esd.attack.__main__ import main

    monkeypatch.chdir(tmp_path)
    if "whole" in given:
        save_edit(tmp_path / "whole.safetensors", Edit({"conv_in.bias": torch.zeros(64)}, {"concept": ["pizza"]}))
    monkeypatch.setattr(sys, "argv", ["esd.attack", *shlex.split(given)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and BAD[given] in said
