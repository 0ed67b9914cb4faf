from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from families import built
from safetensors.torch import load_file as read
from tiny import parts, trained_for

from esd import erase
from esd.erasing.cache import Cache
from esd.erasing.concepts import Concept, Draws, preserved
from esd.erasing.walk_store import WalkStore, noise_seeds


def draws(**kwargs):
    return Draws(**{"concepts": 1, "templates": 1, "positions": 8, "batch": 4, "seed": 0, **kwargs})


def by_diffusers(module, seed, prompt, position, denoiser, guidance=3.0, strides=()):
    """One latent, walked by diffusers' own scheduler, a fresh one: in these strides, then in single steps."""
    model, scheduler = module.model, DDIMScheduler.from_config(module.model.scheduler.config)
    scheduler.set_timesteps(n := len(module.sampler))
    x = model.noise([seed])
    c, null = model.encode([prompt]), model.encode([""])
    at = 0
    with torch.no_grad():
        for stride in [*strides, *[1] * (position - sum(strides))]:
            t, scheduler.num_inference_steps = scheduler.timesteps[at], n // stride  # its length of a step
            at += stride
            eps_c, eps_null = (model.predict(denoiser, x, t[None], condition) for condition in (c, null))
            x = scheduler.step(eps_null + guidance * (eps_c - eps_null), t, x).prev_sample
    return x


def test_fresh_walks_are_diffusers_own(build):
    """The latent at position i has been denoised i times: it stands at the very time step it is trained at."""
    module, *_ = build([Concept("pizza")])
    draw = draws(batch=6).at(0)
    x_t = module.trajectories.examples(draw).x_t
    for b in range(6):
        expected = by_diffusers(module, draw.noise[b], "pizza", int(draw.position[b]), module.student)
        torch.testing.assert_close(x_t[b : b + 1], expected, rtol=1e-5, atol=1e-5)


def test_fresh_walks_are_the_students(build):
    module, teacher, student, *_ = build([Concept("pizza")])
    with torch.no_grad():
        for p in student.parameters():
            if p.requires_grad:
                p.add_(0.3)
    draw = draws(batch=4, seed=3).at(0)
    x_t = module.trajectories.examples(draw).x_t
    late = int(draw.position.argmax())
    expected = by_diffusers(module, draw.noise[late], "pizza", int(draw.position[late]), student)
    other = by_diffusers(module, draw.noise[late], "pizza", int(draw.position[late]), teacher)
    torch.testing.assert_close(x_t[late : late + 1], expected, rtol=1e-5, atol=1e-5)
    assert (x_t[late] - other[0]).abs().max() > 1e-3


@pytest.mark.parametrize("walker", ["frozen", "student"])
def test_the_pool_walks_what_a_fresh_walk_would(build, walker):
    """While student and teacher are the same, every latent of the pool is where its own walk from its noise would be,
    through warm-up (in strides to positions 2 and 5), arrival and a fresh start."""
    module, *_ = build([Concept("pizza"), Concept("cat", erase_from="animal")], source="pool", walker=walker)
    stream = iter(draws(staggered=True, concepts=2, batch=3, positions=8))
    warmed_up = [(), (2,), (4, 1)]
    for step in range(20):
        draw = next(stream)
        x_t = module.trajectories.examples(draw).x_t
        for b in range(3):
            if step and draw.position[b] == 0:
                warmed_up[b] = ()
            prompt, position = ("pizza", "cat")[int(draw.concept[b])], int(draw.position[b])
            expected = by_diffusers(module, draw.noise[b], prompt, position, module.teacher, strides=warmed_up[b])
            torch.testing.assert_close(x_t[b : b + 1], expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("walker", ["frozen", "student"])
def test_walks_of_what_is_preserved_go_in_strides(build, walker):
    concepts = [Concept("pizza"), *preserved(["a cat"], 1.0)]
    module, teacher, *_ = build(concepts, source="pool", walker=walker, steps=10)
    pool = module.trajectories
    stream = draws(staggered=True, batch=1, preserved=1, preserved_batch=2, positions=10, stride=pool.preserving_stride)
    for step in range(6):
        draw = stream.at(step)
        x_t = pool.examples(draw).x_t
        for b in (1, 2):
            position = int(draw.position[b])
            assert position in (0, 5)
            expected = by_diffusers(module, draw.noise[b], "a cat", position, teacher, strides=(5,) if position else ())
            if step:  # the first walks were brought to their places in other strides
                torch.testing.assert_close(x_t[b : b + 1], expected, rtol=1e-5, atol=2e-5)


def rows_forwarded(denoiser):
    """Counts sample-forwards: rows that pass through a denoiser."""
    count = {"rows": 0}
    denoiser.register_forward_pre_hook(lambda module, args: count.__setitem__("rows", count["rows"] + len(args[0])))
    return count


@pytest.mark.parametrize(
    ("source", "walker", "teacher_rows", "student_rows"), [("pool", "frozen", 2, 1), ("pool", "student", 2, 2)]
)
def test_what_an_example_of_the_pool_costs(build, source, walker, teacher_rows, student_rows):
    module, teacher, student, *_ = build([Concept("pizza")], source=source, walker=walker)
    module.log_loss = lambda *args: None
    stream = iter(draws(staggered=True))
    module.training_step(next(stream), 0)  # the warm-up
    counts = rows_forwarded(teacher), rows_forwarded(student)
    for step in range(16):
        module.training_step(next(stream), step)
    assert [count["rows"] / (16 * 4) for count in counts] == [teacher_rows, student_rows]


@pytest.mark.parametrize("concepts", [[Concept("pizza")], [Concept("pizza"), Concept("cat", erase_from="animal")]])
def test_the_pool_walks_by_what_the_loss_has_asked(build, concepts):
    """A training step leaves the walks where the student's own predictions for c and ∅ take them, as it was in that step."""
    module, _, student, *_ = build(concepts, source="pool", walker="student")
    module.log_loss = lambda *args: None
    with torch.no_grad():
        for p in student.parameters():
            if p.requires_grad:
                p.add_(0.1)
    stream = iter(draws(staggered=True, concepts=len(concepts)))
    for step in range(4):
        draw = next(stream)
        with torch.inference_mode():
            x_t = module.trajectories.examples(draw).x_t.clone()
            expected = module.trajectories.state().clone()  # asked for by itself
        module.trajectories.restore(x_t)
        module.training_step(draw, step)
        assert module.trajectories.waiting is None
        torch.testing.assert_close(module.trajectories.x, expected, rtol=1e-4, atol=1e-4)


def test_what_a_fresh_example_costs(build):
    module, teacher, student, *_ = build([Concept("pizza")])
    module.log_loss = lambda *args: None
    counts = rows_forwarded(teacher), rows_forwarded(student)
    draw = draws(batch=5).at(0)
    module.training_step(draw, 0)
    assert counts[0]["rows"] == 2 * 5 and counts[1]["rows"] == 2 * int(draw.position.sum()) + 5


def store(folder, **kwargs):
    return WalkStore(folder, **{"walks": 3, "seed": 0, "dtype": torch.float32, "chunk": 2, "limit": 1.0, **kwargs})


def walks_of(model, concept=None):
    module, *_ = parts(model, [concept or Concept("pizza")])
    return module.trajectories.denoisers, module


def test_the_cache_holds_the_frozen_models_walks(tiny, tmp_path):
    source, module = walks_of(tiny, Concept("pizza", erase_from="food"))
    done = []
    kept = store(tmp_path).get(source, 0, 0, done.append)
    assert sum(done) == 3 * 8 and kept.x_t.shape == (3, 8, 4, 8, 8)
    for walk, seed in enumerate(noise_seeds(0, 3)):
        for position in (0, 3, 7):
            x = by_diffusers(module, seed, "pizza", position, tiny.denoiser)
            torch.testing.assert_close(kept.x_t[walk, position][None], x, rtol=1e-5, atol=2e-5)
    for name, prompt in (("eps_c", "pizza"), ("eps_null", ""), ("eps_f", "food")):
        with torch.no_grad():
            eps = tiny.predict(tiny.denoiser, kept.x_t[1, 4][None], source.sampler.timesteps[4:5], tiny.encode([prompt]))
        torch.testing.assert_close(getattr(kept, name)[1, 4][None], eps, rtol=1e-5, atol=1e-5)


def test_the_cache_is_read_again_and_keyed_by_what_it_depends_on(tiny, tmp_path):
    source, _ = walks_of(tiny)
    store(tmp_path).get(source, 0, 0, lambda n: None)
    count = rows_forwarded(tiny.denoiser)
    store(tmp_path).get(source, 0, 0, lambda n: None)
    assert count["rows"] == 0 and len(list(tmp_path.glob("*.safetensors"))) == 1
    for change in ({"seed": 1}, {"walks": 2}, {"dtype": torch.float16}):
        store(tmp_path, **change).get(source, 0, 0, lambda n: None)
    other, _ = walks_of(tiny, Concept("cat"))
    store(tmp_path).get(other, 0, 0, lambda n: None)
    with torch.no_grad():
        next(tiny.denoiser.parameters()).add_(1e-3)
    store(tmp_path).get(source, 0, 0, lambda n: None)
    assert len(list(tmp_path.glob("*.safetensors"))) == 6
    with torch.no_grad():  # as textual inversion does: the same prompt in another meaning
        tiny.base.text_encoder.get_input_embeddings().weight.add_(1e-2)
    taught, _ = walks_of(tiny)
    store(tmp_path).get(taught, 0, 0, lambda n: None)
    tiny.latent_shape = (4, 16, 16)
    assert store(tmp_path).description(taught, 0, 0)["latents"] == (4, 16, 16)
    assert len(list(tmp_path.glob("*.safetensors"))) == 7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_walks_of_any_precision_are_trained_on_in_mixed_precision(tiny, tmp_path, dtype):
    source, _ = walks_of(tiny)
    kept = store(tmp_path, dtype=dtype).get(source, 0, 0, lambda n: None)
    draw = draws(walks=3).at(0)
    cache = Cache(walks=3, dtype=str(dtype).removeprefix("torch."), folder=tmp_path).begin(source)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):  # which stacks no float16 on a processor
        examples = cache.examples(draw)
    for tensor, whole in zip(examples, kept, strict=True):
        assert tensor.dtype == torch.float32 and torch.equal(tensor, whole[draw.noise, draw.position].float())


def test_walks_are_rolled_out_in_the_precision_of_the_training(tmp_path):
    """As the pool walks; kept apart, for they are others."""
    pipe, kept = built("sd14"), []
    for precision in ("32-true", "bf16-mixed"):
        asked = {"steps": 1, "sampling_steps": 2, "precision": precision, "progress": False}
        erase(pipe, "a pizza", trajectories=Cache(walks=1, folder=str(tmp_path)), **asked)
        files = set(tmp_path.glob("*.safetensors")) - {file for file, _ in kept}
        kept += [(file, read(file)) for file in files]
    assert len(kept) == 2
    whole, mixed = (tensors for _, tensors in kept)
    assert torch.equal(whole["x_t"][:, 0], mixed["x_t"][:, 0]) and not torch.equal(whole["eps_c"], mixed["eps_c"])
    torch.testing.assert_close(whole["eps_c"][:, 0], mixed["eps_c"][:, 0], atol=3e-2, rtol=3e-2)


def test_large_latents_are_rolled_out_few_at_once(tiny):
    source, _ = walks_of(tiny)
    for side, at_once in ((16, 32), (64, 2), (96, 1), (128, 1)):
        tiny.latent_shape = (4, side, side)
        assert Cache().at_once(source) == at_once and Cache(walks=1).roll_out(source)[1] == 2
    assert Cache(chunk=5).at_once(source) == 5


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damage_is_noticed_and_the_walks_made_again(tiny, tmp_path, damage):
    source, _ = walks_of(tiny)
    whole = store(tmp_path).get(source, 0, 0, lambda n: None)
    x_t = whole.x_t.clone()
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-7] ^= 0x40
    path.unlink()
    path.write_bytes({"cut": content[: len(content) // 2], "flip": content, "empty": b""}[damage])
    count = rows_forwarded(tiny.denoiser)
    again = store(tmp_path).get(source, 0, 0, lambda n: None)
    assert count["rows"] > 0 and torch.equal(again.x_t, x_t)


@pytest.mark.parametrize("chunk", [2, 1])
def test_an_interrupted_roll_out_goes_on_where_it_was(tiny, tmp_path, chunk):
    """With the same chunks; with others it begins anew."""
    source, _ = walks_of(tiny)

    class Killed(Exception):
        pass

    def die(n, seen=[]):  # noqa: B006
        seen.append(n)
        if len(seen) > 9:  # in the second chunk of walks
            raise Killed

    with pytest.raises(Killed):
        store(tmp_path).get(source, 0, 0, die)
    assert len(list(tmp_path.glob("*.part0-of-*.safetensors"))) == 1
    count = rows_forwarded(tiny.denoiser)
    resumed = store(tmp_path, chunk=chunk).get(source, 0, 0, lambda n: None)
    assert count["rows"] == 2 * 8 * (1 if chunk == 2 else 3)  # pairs, positions, the walks that were left
    assert not list(tmp_path.glob("*.part*"))
    straight = store(tmp_path / "other").get(source, 0, 0, lambda n: None)
    off = 0 if chunk == 2 else 1e-4  # batches of another size round otherwise, which eight guided steps enlarge
    torch.testing.assert_close(resumed.x_t, straight.x_t, atol=off, rtol=0)


def test_a_full_cache_lets_go_of_what_was_used_least_recently(tiny, tmp_path):
    source, _ = walks_of(tiny)
    for seed in range(3):
        store(tmp_path, seed=seed, limit=1e-9 * 100_000).get(source, 0, 0, lambda n: None)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert 1 <= len(sizes) < 3 and (len(sizes) == 1 or sum(sizes) <= 100_000)


@pytest.mark.parametrize(("source", "walker"), [("student", ""), ("pool", "frozen"), ("pool", "student")])
def test_a_resumed_run_equals_the_straight_one_bit_for_bit(tiny_folder, tmp_path, source, walker):
    from esd.models import load

    def fresh():
        concepts = [Concept("pizza"), Concept("cat", erase_from="animal")]
        return parts(load(str(tiny_folder), "tiny"), concepts, source=source, walker=walker)[0]

    options = {"concepts": 2, "staggered": source == "pool"}
    straight = fresh()
    trained_for(straight, draws(**options), 7)
    first = fresh()
    trainer = trained_for(first, draws(**options), 4)
    file = tmp_path / "step=4.ckpt"
    trainer.save_checkpoint(file)
    checkpoint = torch.load(file, weights_only=True)
    assert set(checkpoint["state_dict"]) == set(first.trained), "a checkpoint holds the trained tensors and nothing else"

    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    second = fresh()
    trainer = pl.Trainer(
        max_steps=7, limit_train_batches=7, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(second, DataLoader(draws(**options, start=4), batch_size=None), ckpt_path=file)
    assert all(torch.equal(straight.trained_tensors()[name], second.trained_tensors()[name]) for name in straight.trained)
    assert not all(torch.equal(first.trained_tensors()[name], second.trained_tensors()[name]) for name in first.trained)


def test_each_rank_gets_its_own_pool_back_and_no_other_number_of_ranks_does(tiny_folder):
    from esd.models import load

    def stepped(rank, first, last, state=None):
        module = parts(load(str(tiny_folder), "tiny"), [Concept("pizza")], source="pool")[0]
        module._trainer = SimpleNamespace(world_size=2, global_rank=rank)
        if state is not None:
            module.on_load_checkpoint({"trajectories": state})
        stream = draws(batch=2, staggered=True, rank=rank, world=2)
        for step in range(first, last):
            with torch.inference_mode():
                x_t = module.trajectories.examples(stream.at(step)).x_t.clone()
        return module, x_t

    halves = [stepped(rank, 0, 5)[0].trajectories.state() for rank in range(2)]
    state = torch.stack(halves)  # as Erasure.on_save_checkpoint gathers it
    assert state.shape == (2, 2, 4, 8, 8) and not torch.equal(*halves)
    for rank in range(2):
        assert torch.equal(stepped(rank, 5, 12, state.clone())[1], stepped(rank, 0, 12)[1])
    with pytest.raises(ValueError, match="on 3 devices, this run has 2"):
        stepped(0, 0, 1, torch.cat([state, state[:1]]))


def test_a_pool_that_goes_on_with_another_batch_walks_anew(build):
    """Its latents stand elsewhere than the new batch is drawn."""
    module, *_ = build([Concept("pizza")], source="pool")
    module.trajectories.examples(draws(staggered=True, batch=4).at(0))
    draw = draws(staggered=True, batch=3).at(4)
    x_t = module.trajectories.examples(draw).x_t
    assert draw.position.tolist() == [4, 6, 1]
    for b, strides in enumerate([(4,), (4, 2), (1,)]):
        expected = by_diffusers(module, draw.noise[b], "pizza", sum(strides), module.teacher, strides=strides)
        torch.testing.assert_close(x_t[b : b + 1], expected, rtol=1e-5, atol=2e-5)


def test_the_cache_can_be_seen_and_cleared(tiny, tmp_path, esd):
    source, _ = walks_of(tiny, Concept("pizza", erase_from="food"))
    store(tmp_path).get(source, 0, 0, lambda n: None)
    (tmp_path / f"{0:024x}.safetensors").write_bytes(b"x")
    shown = esd("cache", "--folder", str(tmp_path))
    assert shown.returncode == 0 and "pizza" in shown.stdout and "damaged" in shown.stdout and "2 files" in shown.stdout
    assert esd("cache", "clear", "--folder", str(tmp_path)).returncode == 0
    assert not list(tmp_path.iterdir())
