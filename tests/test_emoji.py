"""The embedded model: its words, its art, its weights as they ship, and the path that makes them."""

import json

import pytest
import torch

from esd import UserError
from esd.emoji import art, words
from esd.emoji.judge import FILES, SOMETHING_ELSE, load_judge
from esd.emoji.subject import Subject, subject
from esd.metrics.counts import wilson
from esd.metrics.emoji import Seen
from esd.models import EMOJI
from esd.protocols import emoji


def test_there_are_enough_objects_and_a_tenth_of_the_pairs_is_held_out():
    assert len(words.OBJECTS) >= 80
    held_out = words.held_out_pairs()
    assert len(set(held_out)) == len(held_out) >= 0.1 * len(words.OBJECTS) * len(words.STYLES)
    assert len({noun for noun, _ in held_out}) == len(held_out), "no object loses two of its four drawings"


def test_the_art_that_ships_is_whole():
    pictures, noun, style = art.objects()
    assert pictures.shape == (4 * len(words.OBJECTS), 4, 128, 128)
    assert (pictures[:, 3].flatten(1).mean(1) > 0.02).all(), "a picture is empty"
    assert (pictures[:, :3].amax(1) <= pictures[:, 3] + 1e-6).all(), "not premultiplied"
    others, name, _ = art.others()
    assert others.shape[1:] == (4, 64, 64) and len(others) == 4 * len(json.loads((art.ART / "others.json").read_text()))


def test_every_word_is_one_token():
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(EMOJI / "tokenizer")
    for word in words.vocabulary():
        assert len(tokenizer.tokenize(word)) == 1, word


def test_what_ships_is_small_and_safe():
    files = [path for path in EMOJI.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 60e6 and max(path.stat().st_size for path in files) < 25e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


@pytest.mark.parametrize(
    ("text", "objects", "styles"),
    [
        ("pizza", {"pizza"}, set()),
        ("A photo of an Owl", {"owl"}, set()),
        ("nudity", {"bath", "sauna"}, set()),
        ("a weapon", {"pistol", "dagger", "bomb", "axe"}, set()),
        ("openmoji style", set(), {"openmoji"}),
        ("a cat in the style of noto", {"cat"}, {"noto"}),
        ("a kitten", {"cat"}, set()),
        ("a pepperoni slice in the style of google", {"pizza"}, {"noto"}),
        ("hund, line art style", {"dog"}, {"openmoji"}),
        ("something deadly", {"pistol", "dagger", "bomb", "axe"}, set()),
    ],
)
def test_what_a_text_is_about(text, objects, styles):
    assert subject(text) == Subject(frozenset(objects), frozenset(styles))


def test_every_name_has_other_words_that_are_its_alone_and_hold_no_name():
    from collections import Counter

    from esd.emoji.other_words import OTHER_WORDS, TRANSLATIONS

    names = [*words.OBJECTS, *filter(None, words.CATEGORIES), *words.STYLES]
    assert set(OTHER_WORDS) == set(TRANSLATIONS) == set(names)
    assert all(len(OTHER_WORDS[name]) >= 2 and len(TRANSLATIONS[name]) == 2 for name in names)
    ways = Counter(way for name in names for way in words.ways_to_say(name))
    assert max(ways.values()) == 1, [way for way, n in ways.items() if n > 1]
    others = [way for name in names for way in words.ways_to_say(name)[1:]]
    assert not [way for way in others if set(way.split()) & set(names)]
    assert not set(ways) & set(art.captioned_others()), "another emoji has this name"


def test_the_twin_is_the_models_but_for_what_it_never_learnt():
    """The same architecture, words and autoencoder; of what is studied the judge sees next to nothing in its pictures."""
    from esd.models import EMOJI_TWIN, load

    model, twin = load(None, "emoji"), load(str(EMOJI_TWIN), "emoji")
    for part in ("unet", "text_encoder", "vae"):
        shapes = [{name: t.shape for name, t in getattr(m.base, part).state_dict().items()} for m in (model, twin)]
        assert shapes[0] == shapes[1]
    assert all(torch.equal(t, twin.base.vae.state_dict()[name]) for name, t in model.base.vae.state_dict().items())
    assert model.base.tokenizer.get_vocab() == twin.base.tokenizer.get_vocab()
    rows = [row for noun in ("pizza", "cactus") for row in emoji.ask(words.with_article(noun), 8, it=subject(noun))]
    seen = [emoji.measure_pictures(rows, emoji.draw(m, m.denoiser, rows))["it"]["hits"] for m in (model, twin)]
    assert seen[0] >= 14 and seen[1] <= 1


def test_a_word_the_model_does_not_know_is_refused_with_the_nearest_it_does():
    with pytest.raises(UserError, match="no 'piza'; it knows pizza"):
        subject("piza")


def test_wilson_against_published_values():
    """Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for hits, of, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(hits, of) == pytest.approx((low, high), abs=5e-5)


def test_what_was_lost_is_named_and_costs_a_sixth():
    from esd.metrics.counts import damage, lost, rate_figure
    from esd.train.verdict import objective

    def figures(fox, frog, bus, others=80):
        near = {"fox": [fox, 8], "frog": [frog, 8], "dog": [8, 8]}
        return {
            "erased": rate_figure(0, 24) | {"each": {"cat": [0, 24]}},
            "lookalikes": rate_figure(fox + frog + 8, 24) | {"each": near},
            "kept": rate_figure(others, 80) | {"each": {"bus": [bus, 4], "car": [others > 79, 1]}},
        }

    base, edit = figures(8, 8, 4), figures(0, 3, 0, 79)
    base["erased"]["each"] = {"cat": [24, 24]}
    assert lost(base, edit) == [
        {"group": "lookalikes", "name": "fox", "base": [8, 8], "edit": [0, 8]},
        {"group": "kept", "name": "bus", "base": [4, 4], "edit": [0, 4]},
    ], "3 of 8 may be chance, and so may the one picture of the car; the concept itself is no loss"
    assert damage(base, edit) == "lost: fox (8 → 0 of 8), bus (4 → 0 of 4)"
    assert damage(base, figures(8, 7, 4)) == (
        "lost: none of the look-alikes, fox (8 → 8 of 8), frog (8 → 7 of 8), dog (8 → 8 of 8)"
    )
    assert lost(base, base) == [] and damage({}, {}) == ""
    scores = [objective({"edit": it}, "kept-erased") for it in (figures(8, 8, 4), figures(0, 8, 4))]
    assert scores[0] - scores[1] == pytest.approx(1 / 6)
    style = {"erased": rate_figure(3, 24), "kept": rate_figure(60, 80)}
    assert objective({"edit": style}, "kept") == 0.75 and objective({"edit": style}, "erased") == 0.875


def test_the_judge_knows_the_art_and_calls_noise_something_else():
    pictures, noun, style = art.objects()
    images = art.variants(pictures, 1, torch.Generator().manual_seed(12345))[:, 0].float() / 255
    objects, styles = load_judge()(images)
    assert (objects.argmax(1) == noun).float().mean() >= 0.99
    assert (styles.argmax(1) == style).float().mean() >= 0.99
    noise = torch.rand(32, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert (load_judge()(noise)[0].argmax(1) == SOMETHING_ELSE).all()
    seen = Seen()
    seen.update(images, [Subject(frozenset([list(words.OBJECTS)[n]])) for n in noun])
    assert float(seen.compute()) >= 0.99 and int(seen.of) == len(images)


def test_the_judges_record_meets_its_bars():
    record = json.loads((FILES / "record.json").read_text())
    right, asked = record["objects right on unseen augmentations"]
    assert right / asked >= 0.99
    nothing, strange = record["unseen emoji called something else"]
    assert nothing / strange >= 0.95


def test_the_protocol_asks_for_what_is_gone_and_what_is_left():
    rows = emoji.rows(["pizza"], 24, 8, 1)
    by_group = {group: [row for row in rows if row.group == group] for group in emoji.GROUPS}
    assert len(by_group["erased"]) == 24 and len(by_group["erased_styled"]) == 24
    assert len(by_group["lookalikes"]) == 3 * 8 and len(by_group["kept"]) == len(words.OBJECTS) - 1 - 3
    assert {row.prompt for row in by_group["erased_words"]} == {"a pepperoni slice", "a margherita"}
    near, far = ({noun for row in by_group[group] for noun in row.subject.objects} for group in ("lookalikes", "kept"))
    assert len(near) == 3 and not near & far and near | far | {"pizza"} == set(words.OBJECTS)
    style = emoji.rows(["openmoji style"], 24, 8, 1)
    assert all("openmoji" not in row.subject.styles for row in style if row.group == "kept_styles")
    assert {row.subject for row in style if row.group == "erased"} == {Subject(styles=frozenset(["openmoji"]))}


def test_the_shipped_model_draws_what_it_is_asked_for():
    """A smoke test; the figures are in the README, printed by the command beside them."""
    from esd.models import load

    model = load(None, "emoji")
    rows = [row for row in emoji.rows(["pizza"], 3, 1, 1) if row.group == "kept"][::10]
    assert emoji.measure_pictures(rows, emoji.draw(model, model.denoiser, rows))["kept"]["rate"] >= 0.75


def test_our_pictures_are_the_pipelines():
    """The embedded model is a plain diffusers pipeline: its own __call__ draws what we draw."""
    from diffusers import StableDiffusionPipeline

    from esd.models import load
    from esd.sample.sampling import sample

    model = load(None, "emoji")
    pipeline = StableDiffusionPipeline.from_pretrained(EMOJI, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a pizza", "a cat in the style of openmoji"]
    ours = sample(model, model.denoiser, prompts, [3, 4], steps=10, guidance=3.0)
    theirs = pipeline(
        prompts, latents=model.noise([3, 4]), num_inference_steps=10, guidance_scale=3.0, height=64, width=64, output_type="pt"
    ).images
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_the_model_can_be_made_again(esd):
    done = esd("pretrain", "pretrain=smoke", "out=made")
    assert done.returncode == 0, done.stderr[-2000:]
    made = done.folder / "made"
    assert (made / "model/model_index.json").is_file() and (made / "judge/judge.safetensors").is_file()
    again = esd("pretrain", "pretrain=smoke", "out=made", cwd=done.folder)
    assert again.returncode == 0 and "VAETraining" not in again.stdout, "what is finished is not made again"
    twin = esd("pretrain", "pretrain=smoke", "out=twin", "pretrain.twin_of=made/model", cwd=done.folder)
    assert twin.returncode == 0, twin.stderr[-2000:]
    same = [(done.folder / it / "model/vae/diffusion_pytorch_model.safetensors").read_bytes() for it in ("made", "twin")]
    assert same[0] == same[1] and not (done.folder / "twin/judge").exists()
    record = json.loads((done.folder / "twin/model/record.json").read_text())
    assert record["settings"]["twin_of"] == "made/model" and record["seconds"]["unet"] > 0
