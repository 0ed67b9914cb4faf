"""A concept that is given as pictures: x_t is one of them, noised; what preserves walks beside it."""

import json

import pytest
import torch
from diffusers import DDIMScheduler
from families import PIPELINES, built
from PIL import Image
from tiny import trained_for

from esd import UserError, models
from esd.bench import given_pictures
from esd.emoji import art, words
from esd.emoji.subject import Subject
from esd.erasing import naming
from esd.erasing.concepts import Concept, Draws, preserved
from esd.erasing.pictures import Pictures, picture_files, read_pictures
from esd.sample.pictures import grid
from esd.train.__main__ import with_pictures
from esd.train.found import unnamed
from esd.train.options import run_name


@pytest.fixture
def folder(tmp_path):
    """A red picture, a wide blue one, and one that is transparent on its left."""
    Image.new("RGB", (24, 24), "red").save(tmp_path / "a.png")
    Image.new("RGB", (60, 20), "blue").save(tmp_path / "b.jpg")
    half = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    half.paste((0, 255, 0, 255), (10, 0, 20, 20))
    half.save(tmp_path / "c.webp", lossless=True)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def drawings(name):
    """The object in the four styles: (4, 4, 128, 128)."""
    pictures, noun, _ = art.objects()
    return pictures[noun == list(words.OBJECTS).index(name)]


def test_pictures_are_square_and_what_is_transparent_is_white(folder):
    found = read_pictures(picture_files(folder), 16)
    assert found.shape == (3, 3, 16, 16)
    assert found[0, 0].min() > 0.99 and found[1, 2].min() > 0.95 and found[1, 0].max() < 0.05
    assert found[2, :, :, 0].min() > 0.99, "white, not black"
    assert found[2, 1, :, -1].min() > 0.99 and found[2, 0, :, -1].max() < 0.01


def test_a_photo_is_as_a_viewer_shows_it(tmp_path):
    """Cameras turn no pixels: they write beside them how the camera was held (EXIF's orientation)."""
    stored = Image.new("RGB", (40, 20), "red")
    stored.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown, what is left in the file is above
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    (found,) = read_pictures(picture_files(tmp_path), (16, 8))
    assert found.shape == (3, 16, 8), "height and width"
    assert found[2, :7].min() > 0.9 and found[0, :7].max() < 0.1 and found[0, 9:].min() > 0.9 and found[2, 9:].max() < 0.1


def test_grey_of_16_bits_is_not_taken_for_white(tmp_path):
    Image.new("I;16", (8, 8), 20000).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png has more than 8 bits of grey: save it with 8"):
        read_pictures(picture_files(tmp_path), 8)


def test_pictures_are_as_high_and_wide_as_the_model_draws(folder):
    pipe = built("sd14")
    pipe.unet.register_to_config(sample_size=[4, 8])
    model = models.from_pipeline(pipe, "sd14")
    given, x_0 = Pictures(images=str(folder)).read(model)
    factor = pipe.vae_scale_factor
    assert given.shape == (3, 3, 4 * factor, 8 * factor) and x_0.shape == (3, *model.latent_shape)


def test_a_latent_is_a_picture_noised_as_diffusers_does(build, folder):
    """Each example's picture and noise are its own, also of a slot that walks; the teacher is asked there."""
    module, teacher, _, sampler, prompts = build([Concept("pizza")], source=Pictures(images=str(folder)))
    source, scheduler = module.trajectories, DDIMScheduler.from_config(module.model.scheduler.config)
    draws, noises = Draws(concepts=1, templates=1, positions=8, batch=4, seed=0, staggered=True), set()
    for step in range(6):
        draw = draws.at(step)
        found = source.examples(draw)
        t = sampler.timesteps[draw.position]
        for b in range(4):
            fits = []
            for x_0 in source.x_0:
                alpha = scheduler.alphas_cumprod[t[b]]
                noise = (found.x_t[b] - alpha.sqrt() * x_0) / (1 - alpha).sqrt()  # if it were this picture
                again = scheduler.add_noise(x_0[None], noise[None], t[b : b + 1])[0]
                torch.testing.assert_close(again, found.x_t[b], rtol=1e-4, atol=1e-4)
                fits.append(noise)
            seed = int((draw.noise[b] + draw.position[b] * 0x9E3779B97F4A7C1) % 2**62)
            expected = module.model.noise([seed])[0]
            picture = seed % 3
            torch.testing.assert_close(fits[picture], expected, rtol=1e-3, atol=1e-3)
            noises.add(seed)
        c = module.model.encode(["pizza"] * 4)
        with torch.no_grad():
            eps = module.model.predict(teacher, found.x_t, t, c)
        torch.testing.assert_close(found.eps_c, eps, rtol=1e-4, atol=1e-4)
    assert len(noises) == 24


def test_what_preserves_walks_in_a_pool(build, folder):
    """The same latents as of a pool without the pictures; and an interrupted run goes on where it was."""
    concepts = [Concept("pizza"), *preserved(["a cat"], 1.0)]
    options = {"preserved": 1, "preserved_batch": 3, "staggered": True, "stride": Pictures.preserving_stride}
    both = Draws(concepts=1, templates=1, positions=8, batch=2, seed=0, **options)
    module, *_ = build(concepts, source=Pictures(images=str(folder), walker="frozen"))
    pool, *_ = build(concepts, source="pool")
    alone = Draws(concepts=1, templates=1, positions=8, batch=0, seed=0, **options)
    for step in range(4):
        found = module.trajectories.examples(both.at(step))
        expected = pool.trajectories.examples(alone.at(step))
        torch.testing.assert_close(found.x_t[2:], expected.x_t, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.eps_c[2:], expected.eps_c, rtol=1e-4, atol=1e-4)
    assert module.trajectories.state().shape[0] == 3


def test_it_trains(build, folder):
    module, *_ = build([Concept("pizza")], source=Pictures(images=str(folder)))
    before = {name: tensor.clone() for name, tensor in module.trained_tensors().items()}
    trained_for(module, Draws(concepts=1, templates=1, positions=8, batch=2, seed=0, staggered=True), 2)
    assert any((before[name] - tensor).abs().max() > 0 for name, tensor in module.trained_tensors().items())


@pytest.mark.parametrize(("what", "said"), [("missing", "is no folder"), ("empty", "holds no .png"), ("damaged", "no picture")])
def test_a_folder_without_pictures_is_refused(tmp_path, what, said):
    place = tmp_path / what
    if what != "missing":
        place.mkdir()
    if what == "damaged":
        (place / "a.png").write_bytes(b"no picture at all")
    with pytest.raises(UserError, match=said):
        read_pictures(Pictures(images=str(place)).files, 16)


@pytest.mark.run
def test_a_drawing_is_erased_from_the_command_line(esd, tmp_path):
    given_pictures.write_given(drawings("pizza")[:1], tmp_path / "given")
    done = esd(
        "train", "concept=a pizza in the style of noto", f"images={tmp_path / 'given'}", "preserve=a cat,a dog", "steps=2",
        "batch=2", "grid=4", "logger=none", "evaluate=false", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/metrics.json").read_text())["record"]["trajectories"]
    assert record["name"] == "pictures" and record["pictures"] == given_pictures.GIVEN and len(record["images_sha256"]) == 16
    before_and_after, three = (grid(torch.ones(n, 4, 3, 64, 64), ["x"] * n, ["x"] * 4).height for n in (2, 3))
    with Image.open(tmp_path / "run/grid.png") as page:
        assert page.height > (before_and_after + three) / 2, "the pictures given stand beside the drawn"


def test_the_words_of_what_was_never_captioned_are_left_out():
    assert "taker" in unnamed("emoji") and not unnamed("emoji") & set(words.OBJECTS) and unnamed("sd14") == set()


@pytest.mark.parametrize("family", ["sd14", "sd21", "sdxl"])
def test_a_word_is_a_function_of_pictures_and_seed_in_every_family(family, monkeypatch):
    steps, tried = naming.STEPS, naming.TRIED
    monkeypatch.setattr(naming, "STEPS", 6)
    monkeypatch.setattr(naming, "TRIED", ((16, 4), (4, 8)))
    model = models.from_pipeline(built(family), family)
    x_0, before = model.noise([1, 2, 3]), {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}
    forwards = []
    found = naming.text_of(model, x_0, 0, moved=forwards.append)
    assert sum(forwards) == naming.FORWARDS - 3 * (steps - 6) * naming.BATCH - sum(n * of for n, of in tried) + 16 * 4 + 4 * 8
    assert found == naming.text_of(model, x_0, 0) and len(found) == 1, "the tiny vocabulary is one of letters"
    assert naming.text_of(model, x_0, 0, leave_out=[found]) != found
    assert all(torch.equal(before[name], tensor) for name, tensor in model.denoiser.state_dict().items())


def test_words_are_tried_on_the_same_noises_and_the_best_is_first(tiny):
    x_0, sampler = tiny.noise([1, 2]), tiny.sampler(naming.POSITIONS)
    words_first = naming.best_first(tiny, sampler, x_0, ["cat", "dog", "owl", "cat"], 8, 0, lambda n: None)
    assert (
        sorted(words_first) == ["cat", "cat", "dog", "owl"]
        and abs(words_first.index("cat") - words_first[::-1].index("cat")) < 3
    )
    drawn = naming.noised(x_0, 8, torch.Generator().manual_seed(0))
    assert drawn[2].max() < naming.POSITIONS / 2, "the noisier half"
    with torch.no_grad():
        own = [
            naming.losses(tiny, sampler, {k: v.expand(8, -1, -1) for k, v in tiny.encode([word]).items()}, *drawn).mean().item()
            for word in words_first
        ]
    assert own == pytest.approx(sorted(own), rel=1e-5)


@pytest.mark.parametrize("family", sorted(set(PIPELINES) - {"sd14", "sd15", "sd21", "sdxl"}))
def test_two_vocabularies_have_no_common_word(family):
    model = models.from_pipeline(built(family), family)
    with pytest.raises(UserError, match=f"{family} reads prompts with two vocabularies: give concept=… beside images="):
        naming.text_of(model, model.noise([1]), 0)


def test_pictures_alone_ask_for_a_text():
    source = ["trajectories=pictures", "trajectories.images=a/koala"]
    assert with_pictures(["images=a/koala", "eta=2"]) == [*source, "concept=auto", "eta=2"]
    assert with_pictures(["-m", "images=a/koala"]) == ["-m", *source, "concept=auto"]
    for typed in ("concept=cat", "experiment=paper/nudity", "resume=outputs/x"):
        assert with_pictures([typed, "images=a/koala"]) == [typed, *source]
    assert with_pictures(["concept=cat", "eta=1"]) == ["concept=cat", "eta=1"]
    assert run_name("auto", "a/Grumpy cat/") == "images-grumpy-cat" and run_name(["cat", "dog"], None) == "cat-dog"


@pytest.mark.run
def test_pictures_without_a_text_are_erased_from_the_command_line(esd, tmp_path):
    """The record has the found text, the folder is named after the pictures, a finished run knows itself again."""
    given_pictures.write_given(drawings("cat"), tmp_path / "my cats")
    options = ("steps=2", "batch=2", "grid=4", "logger=none")
    done = esd("train", f"images={tmp_path / 'my cats'}", *options, judging_steps=1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs/train").glob("*/*-images-my-cats")
    metrics = json.loads((run / "metrics.json").read_text())
    (text,) = metrics["record"]["concept"]
    assert text in words.ways_to_say("cat") and f"'{text}', found by inversion" in done.stdout
    assert "concept=auto" in metrics["record"]["command"] and "erased" in metrics["edit"], "it is judged by the found text"
    again = esd("train", f"resume={run}", cwd=tmp_path)
    assert again.returncode == 0 and "Nothing is left to do" in again.stdout


def test_a_word_that_names_nothing_is_not_judged_and_spares_every_object():
    from test_configs import composed

    from esd.train.run_prompts import spared_by_default
    from esd.train.verdict import short_protocol

    for text in ("emoji", "abacus"):  # of the second the judge knows not even the word
        assert "names no object and no style" in short_protocol(composed(), [Concept(text)])
        assert {words.with_article(noun) for noun in words.OBJECTS} <= set(spared_by_default("emoji", [Concept(text)]))


def test_the_demonstrations_count_what_they_do_not_train_on():
    rows = given_pictures.asked("pizza", "noto")
    assert [len(its) for its in rows.values()] == [24] * 4
    erased, same, others, rest = rows.values()
    assert {row.subject for row in erased} == {Subject(frozenset(["pizza"]), frozenset(["noto"]))}
    assert all("noto" not in row.prompt for row in (*same, *rest)) and all(
        "pizza" not in row.prompt for row in (*others, *rest)
    )
    kept = given_pictures.preserved("pizza", "noto").split(",")
    assert not {row.prompt for row in (*erased, *others, *rest)} & set(kept) and {row.prompt for row in same} <= set(kept)
    never_drawn = {noun for noun, style in words.held_out_pairs() if style == "noto"}
    assert not {noun for row in others for noun in row.subject.objects} & never_drawn
