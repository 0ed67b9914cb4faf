import pytest
import torch
from tiny import trained_for

from esd.erasing.concepts import Concept, Draws, preserved
from esd.erasing.erasure import erasure_loss, erasure_target


def draws(**kwargs):
    return Draws(**{"concepts": 1, "templates": 1, "positions": 8, "batch": 4, "seed": 0, **kwargs})


def rand(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def test_target_is_the_papers():
    c, null, f = rand(2, 4, 3, 3), rand(2, 4, 3, 3) + 1, rand(2, 4, 3, 3) - 1
    torch.testing.assert_close(erasure_target(null, c, null, 1.0), 2 * null - c)
    torch.testing.assert_close(erasure_target(null, c, null, 0.0), null)
    eta = torch.tensor([0.5, 2.0], dtype=torch.float64)
    expected = torch.stack([f[0] - 0.5 * (c[0] - null[0]), f[1] - 2 * (c[1] - null[1])])
    torch.testing.assert_close(erasure_target(f, c, null, eta), expected)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("source", ["student", "pool"])
def test_at_the_start_the_loss_is_one_plus_eta_squared_times_the_concepts_own_distance(build, eta, source):
    """Student = teacher: ε_c − (ε_∅ − η(ε_c − ε_∅)) = (1 + η)(ε_c − ε_∅)."""
    module, *_ = build([Concept("pizza", eta=eta)], source=source)
    batch = draws(staggered=source == "pool").at(0)
    x_t, eps_c, eps_null, eps_f = module.trajectories.examples(batch)
    module.log_loss = lambda *args: None
    module.trajectories.examples = lambda draw: type("E", (tuple,), {})((x_t, eps_c, eps_null, eps_f))
    expected = (1 + eta) ** 2 * (eps_c - eps_null).square().mean()
    assert expected > 0  # at η = 0, too, it is c that is asked for
    torch.testing.assert_close(module.training_step(batch, 0), expected, rtol=1e-4, atol=1e-9)


def test_a_preserved_prompts_target_is_the_teachers_own_prediction(build):
    module, *_ = build([Concept("pizza"), *preserved(["a cat"], 5.0)])
    batch = draws(preserved=1, preserved_batch=4).at(0)
    x_t, eps_c, eps_null, eps_f = module.trajectories.examples(batch)
    target = erasure_target(eps_f, eps_c, eps_null, module.prompts.eta[batch.concept])
    assert torch.equal(target[4:], eps_c[4:]) and not torch.equal(target[:4], eps_c[:4])
    error = erasure_loss(eps_c, target)  # the student is the teacher
    torch.testing.assert_close(module.weighted_loss(error, batch), error[:4].mean())
    torch.testing.assert_close(module.weighted_loss(torch.ones(8), batch), torch.tensor(1.0 + 5.0))


def test_erase_from_is_what_the_student_is_asked_for(build):
    module, *_ = build([Concept("a pizza", erase_from="food"), Concept("cat")], templates=("{}", "a photo of {}"))
    prompts = module.prompts
    named = lambda rows: [[prompts.texts[i] for i in row] for row in rows.tolist()]  # noqa: E731
    assert named(prompts.student_prompt) == [["food", "a photo of food"], ["cat", "a photo of cat"]]
    assert named(prompts.c)[0] == ["a pizza", "a photo of a pizza"]
    assert named(prompts.f) == [["food", "a photo of food"], ["", ""]]


def test_predictions_of_c_null_and_f_are_the_teachers(build):
    """One joint forward, with f only where it is needed, says what three separate ones say."""
    concepts = [Concept("pizza", erase_from="food"), Concept("cat"), *preserved(["a dog"], 1.0)]
    module, teacher, *_ = build(concepts)
    draw = draws(concepts=2, preserved=1, preserved_batch=2).at(3)
    x_t, *eps = module.trajectories.examples(draw)
    for which, got in zip((module.prompts.c, torch.zeros_like(module.prompts.c), module.prompts.f), eps, strict=True):
        condition = module.prompts.condition(module.prompts.rows(which, draw))
        with torch.no_grad():
            alone = module.model.predict(teacher, x_t, module.sampler.timesteps[draw.position], condition)
        torch.testing.assert_close(got, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", ["student", "pool"])
def test_training_moves_the_chosen_tensors_and_nothing_else(build, source):
    module, teacher, student, *_ = build([Concept("pizza")], source=source)
    before = {name: p.detach().clone() for name, p in teacher.named_parameters()}
    trained_for(module, draws(staggered=source == "pool"), 2)
    for name, p in teacher.named_parameters():
        assert torch.equal(p, before[name]), f"the teacher's {name} moved"
    moved = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(module.trained)
    assert not student.training and not teacher.training


def test_loss_falls(build):
    module, *_ = build([Concept("pizza")], source="pool", lr=1e-2)
    losses = []
    module.log_loss = lambda error, loss, draw: losses.append(loss.item())
    trained_for(module, draws(staggered=True, batch=8), 40)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_loss_that_is_not_finite_stops_and_says_where(build):
    module, _, student, *_ = build([Concept("pizza")])
    with torch.no_grad():
        next(p for p in student.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 0, time step .* concept 'pizza'"):
        trained_for(module, draws(), 1)


@pytest.mark.parametrize(("source", "walker"), [("student", ""), ("pool", "frozen"), ("pool", "student")])
def test_mixed_precision_trains_too(build, source, walker):
    """Autocast keeps cast weights: those the student walked with, without gradients, must not serve its own forward."""
    module, _, student, *_ = build([Concept("pizza")], source=source, walker=walker)
    before = module.trained_tensors()
    before = {name: tensor.clone() for name, tensor in before.items()}
    trained_for(module, draws(staggered=source == "pool"), 2, precision="bf16-mixed")
    after = module.trained_tensors()
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert not [name for name in before if torch.equal(before[name], after[name])]


def losses_and_edit(module, precision=torch.float32, steps=3):
    """A few bare steps of the pool, one of whose batches needs f and one does not."""
    module.log_loss = lambda *args: None
    optimizer = torch.optim.Adam([p for p in module.student.parameters() if p.requires_grad], 1e-3)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
            loss = module.training_step(draws(concepts=2, staggered=True, batch=3).at(step), step)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), {name: tensor.clone() for name, tensor in module.trained_tensors().items()}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradient_checkpointing_keeps_fewer_activations_and_changes_nothing(tiny_folder, precision):
    from tiny import parts

    from esd.bench.memory import Held
    from esd.models import load

    found, held = [], []
    for checkpointing in (False, True):
        concepts = [Concept("pizza"), Concept("cat", erase_from="animal")]
        module, _, student, *_ = parts(load(str(tiny_folder), "tiny"), concepts, source="pool")
        if checkpointing:
            student.enable_gradient_checkpointing()
        found.append(losses_and_edit(module, precision))
        with Held() as memory, torch.autocast("cpu", precision, enabled=precision is not torch.float32):
            loss = module.training_step(draws(concepts=2, staggered=True, batch=3).at(3), 3)
            held.append(memory.now)
        del loss
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)
    assert held[1] < 0.7 * held[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_autograd_goes_no_deeper_than_the_first_trained_layer(tiny_folder, checkpointing):
    """Below the first attention to the text nothing is kept for a backward pass, nor after gradient checkpointing's."""
    from tiny import parts

    from esd.models import load

    module, teacher, student, *_ = parts(load(str(tiny_folder), "tiny"), [Concept("pizza")], source="student")
    if checkpointing:
        student.enable_gradient_checkpointing()
    module.log_loss = lambda *args: None
    needs: dict[str, list[bool]] = {}
    for name, part in student.named_modules():
        part.register_forward_hook(
            lambda part, args, out, name=name: (
                needs.setdefault(name, []).append(out.requires_grad)
                if torch.is_grad_enabled() and isinstance(out, torch.Tensor)
                else None
            )
        )
    module.training_step(draws().at(0), 0).backward()
    first = next(iter(module.trained)).removesuffix(".weight")  # down_blocks.0.attentions.0.….attn2.to_q
    names = list(needs)  # in the order of computation
    assert "attn2" in first and len(names[: names.index(first)]) > 5
    for name in names[: names.index(first)]:
        assert not any(needs[name]), f"{name} comes before the first trained layer"
    assert all(needs[first]) and all(needs["conv_out"])
    assert {name for name, p in student.named_parameters() if p.grad is not None} == set(module.trained)


@pytest.mark.run
def test_compiled_in_place_it_computes_the_same(tiny_folder):
    """Teacher and student, at the several batch sizes of a pool, without naming their weights anew."""
    from tiny import parts

    from esd.models import load

    found = []
    for compiled in (False, True):
        concepts = [Concept("pizza"), Concept("cat", erase_from="animal")]
        module, teacher, student, *_ = parts(load(str(tiny_folder), "tiny"), concepts, source="pool")
        names = list(student.state_dict())
        for denoiser in (teacher, student) if compiled else ():
            denoiser.compile(backend="eager")
        found.append(losses_and_edit(module))
        assert list(student.state_dict()) == names and set(module.trained_tensors()) == set(module.trained)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("option", ["gradient_checkpointing=true", pytest.param("compile=true", marks=pytest.mark.slow)])
def test_a_run_with_the_option_leaves_the_same_edit(esd, tiny_folder, tmp_path, option):
    from safetensors.torch import load_file

    for folder, extra in (("plain", []), ("with", [option])):
        done = esd(
            "train", "concept=pizza", f"model.path={tiny_folder}", "model.precision=32-true", "sampling_steps=4", "steps=3",
            "batch=3", "logger=none", "evaluate=false", f"hydra.run.dir={tmp_path / folder}", *extra,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    plain, other = (load_file(tmp_path / folder / "edit.safetensors") for folder in ("plain", "with"))
    torch.testing.assert_close(plain, other, rtol=1e-4, atol=1e-6)
