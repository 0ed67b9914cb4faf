"""A concept that is given as pictures: x_t is one of them, noised; what preserves walks beside it."""

import json

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from tiny import trained_for

from esd import UserError
from esd.erasing.concepts import Concept, Draws, preserved
from esd.erasing.pictures import Pictures, picture_files, read_pictures


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


def test_pictures_are_square_and_what_is_transparent_is_white(folder):
    found = read_pictures(picture_files(folder), 16)
    assert found.shape == (3, 3, 16, 16)
    assert found[0, 0].min() > 0.99 and found[1, 2].min() > 0.95 and found[1, 0].max() < 0.05
    assert found[2, :, :, 0].min() > 0.99, "white, not black"
    assert found[2, 1, :, -1].min() > 0.99 and found[2, 0, :, -1].max() < 0.01


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
    both = Draws(concepts=1, templates=1, positions=8, batch=2, seed=0, preserved=1, preserved_batch=3, staggered=True)
    module, *_ = build(concepts, source=Pictures(images=str(folder), walker="frozen"))
    pool, *_ = build(concepts, source="pool")
    alone = Draws(concepts=1, templates=1, positions=8, batch=0, seed=0, preserved=1, preserved_batch=3, staggered=True)
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
    from esd.emoji import art, words

    pictures, noun, style = art.objects()
    of = (noun == list(words.OBJECTS).index("pizza")) & (style == 0)
    drawn = art.variants(pictures[of], 4, torch.Generator().manual_seed(0))[0]
    (tmp_path / "given").mkdir()
    for i, one in enumerate(drawn):
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(tmp_path / f"given/{i}.png")
    done = esd(
        "train", "concept=a pizza in the style of noto", f"images={tmp_path / 'given'}", "preserve=a cat,a dog", "steps=2",
        "batch=2", "grid=4", "logger=none", "evaluate=false", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/metrics.json").read_text())["record"]["trajectories"]
    assert record["name"] == "pictures" and record["pictures"] == 4 and len(record["images_sha256"]) == 16
    assert (tmp_path / "run/grid.png").is_file()
    missing = esd("train", "concept=pizza", "trajectories=pictures")
    assert missing.returncode == 2 and "give a folder with pictures" in missing.stderr
    refused = esd("train", "concept=pizza", f"images={tmp_path / 'nowhere'}")
    assert refused.returncode == 2 and "is no folder: give a folder with pictures" in refused.stderr
