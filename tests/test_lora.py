"""Erasing by LoRA: the factors are trained, and every place that takes an edit takes them."""

import io

import diffusers
import pytest
import torch
from families import built
from rich.console import Console
from safetensors.torch import load_file, save_file
from test_export import configured, drawn_by
from test_layers import rule
from tiny import trained_for

from esd import UserError, load_edit, models
from esd.erasing import lora
from esd.erasing.concepts import Concept, Draws
from esd.erasing.edit import Edit, apply_edit, check_edit, read_edit, save_edit, whole
from esd.erasing.layers import select_parameters
from esd.erasing.lora_factors import tensors_of
from esd.export import layout
from esd.export import lora as export_lora
from esd.export.forms import export
from esd.models import precision
from esd.models.hashes import own_weights
from esd.sample.sampling import sample

RANK, ALPHA = 4, 8.0
LOOK = {"steps": 3, "guidance": 2.0}


@pytest.fixture(scope="module", params=["sd14", "sdxl", "sd3", "flux"])
def family(request, tmp_path_factory):
    """(folder, name) of the family's pipeline on disk, in 16 bits."""
    folder = tmp_path_factory.mktemp(request.param)
    built(request.param).to(torch.float16 if "sd" in request.param[:2] else torch.bfloat16).save_pretrained(folder)
    return folder, request.param


def erasing(folder, name, dtype="fp32", layers="esd-x", rank=RANK, alpha=ALPHA, seed=0):
    """(module, teacher, student, names) of a run with LoRA."""
    from esd.erasing.erasure import Erasure
    from esd.erasing.prompts import PromptTable
    from esd.erasing.trajectories import Denoisers, Pool

    model = models.load(str(folder), name, "fp32" if dtype == "fp32" else "auto")
    names = select_parameters(model.denoiser, rule(layers))
    student, trained = lora.lora_student_of(model.denoiser, names, rank, alpha, seed, layers)
    precision.store(model.base, model.denoiser, dtype)
    sampler, prompts = model.sampler(8), PromptTable(model, [Concept("a pizza")], ["{}"])
    source = Pool(walker="student").begin(Denoisers(model, sampler, prompts, 3.0, model.denoiser, student))
    module = Erasure(
        model, student, trained, prompts, sampler, source,
        lambda p: torch.optim.Adam(p, 1e-2), lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0),
    )  # fmt: skip
    module.log_loss = lambda *args: None
    return module, model.denoiser, student, names


def train(module, steps=2, start=0, **kwargs):
    return trained_for(
        module, Draws(concepts=1, templates=1, positions=8, batch=2, seed=0, staggered=True, start=start), steps, **kwargs
    )


def edit_of(module, rank=RANK, alpha=ALPHA):
    part = "transformer" if hasattr(module.model.base, "transformer") else "unet"
    record = {"base": "tiny", "base_hash": module.model.base_hash, "concept": ["pizza"], "erase_from": [""], "eta": 1.0}
    return Edit(tensors_of(lora.factors(module.trained_tensors(), rank, alpha), part), record)


@pytest.fixture(scope="module")
def trained(family, tmp_path_factory):
    """(folder, name, module, path of its edit), after two steps."""
    module, *_ = erasing(*family)
    train(module)
    path = tmp_path_factory.mktemp("edit") / "edit.safetensors"
    save_edit(path, edit_of(module))
    return *family, module, path


def test_a_student_with_adapters_is_the_teacher_until_it_is_trained(family):
    module, teacher, student, names = erasing(*family)
    own = {id(p) for p in teacher.parameters()}
    moving = {name for name, p in student.named_parameters() if p.requires_grad}
    assert moving == set(module.trained) and all(".lora_" in name for name in moving)
    assert all(id(p) in own for name, p in student.named_parameters() if name not in moving)
    matrices = [name for name in names if name.endswith("weight")]
    assert len(moving) == 2 * len(matrices)  # not the biases that the rule names
    ours, theirs = (sample(module.model, net, ["a pizza"], [0], **LOOK) for net in (student, teacher))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("dtype", "mixed"), [("auto", "bf16-mixed"), ("bf16", "32-true")])
def test_steps_move_the_factors_alone(family, dtype, mixed):
    module, teacher, student, _ = erasing(*family, dtype)
    before = {name: tensor.clone() for name, tensor in own_weights(student).items()}
    start = {name: tensor.clone() for name, tensor in module.trained_tensors().items()}
    train(module, precision=mixed)
    assert all(torch.equal(tensor, before[name]) for name, tensor in own_weights(student).items())
    after = module.trained_tensors()
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    moved = [name for name, tensor in after.items() if not torch.equal(tensor, start[name])]
    assert len(moved) >= 0.8 * len(after)  # the last block of a transformer says nothing of the text any more


def test_the_edit_draws_what_the_student_draws(trained):
    folder, name, module, path = trained
    edit, again = read_edit(path), models.load(str(folder), name)
    student, base = (sample(module.model, net, ["a pizza"], [5], **LOOK) for net in (module.student, module.teacher))
    assert (student - base).abs().max() > 1e-3
    replaced = apply_edit(again.denoiser, edit)
    torch.testing.assert_close(sample(again, again.denoiser, ["a pizza"], [5], **LOOK), student, atol=1e-4, rtol=0)
    apply_edit(again.denoiser, Edit(replaced))
    assert torch.equal(sample(again, again.denoiser, ["a pizza"], [5], **LOOK), base)


def test_it_is_loaded_at_any_strength_added_up_and_taken_off_again(trained, tmp_path):
    folder, name, module, path = trained
    pipe = models.load(str(folder), name).base
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    base = {key: tensor.detach().clone() for key, tensor in own_weights(denoiser).items()}
    full = whole(read_edit(path), base).tensors
    load_edit(pipe, path)
    assert all(torch.equal(tensor, full.get(key, base[key])) for key, tensor in own_weights(denoiser).items())
    other = {key: tensor + 0.1 for key, tensor in list(base.items())[:3]} | {next(iter(full)): base[next(iter(full))] - 0.2}
    save_edit(tmp_path / "other.safetensors", Edit(other, {"base_hash": module.model.base_hash}))
    with pytest.warns(UserWarning, match="both change 1 tensors"):
        load_edit(pipe, tmp_path / "other.safetensors", strength=0.5)
    for key, tensor in own_weights(denoiser).items():
        change = (full[key] - base[key] if key in full else 0) + (0.5 * (other[key] - base[key]) if key in other else 0)
        torch.testing.assert_close(tensor.detach(), base[key] + change, atol=1e-5, rtol=1e-4)
    load_edit(pipe, path, strength=0)
    load_edit(pipe, tmp_path / "other.safetensors", strength=0)
    assert all(torch.equal(tensor, base[key]) for key, tensor in own_weights(denoiser).items())


@pytest.mark.parametrize("form", ["the edit itself", "peft", "kohya"])
def test_as_a_lora_it_is_exact_and_undergoes_no_svd(trained, tmp_path, form, monkeypatch):
    folder, name, module, path = trained
    if form == "kohya" and name in ("sd3", "flux"):
        pytest.skip("kohya's layout is for U-Nets")
    monkeypatch.setattr(torch.linalg, "svd", None)
    edit = read_edit(path)
    made = export_lora.trained(edit.tensors)
    assert made.error == 0 and made.rank == RANK and not made.left_out
    write = export_lora.kohya_keys if form == "kohya" else export_lora.peft_keys
    keys = edit.tensors if form == "the edit itself" else write(made, module.teacher)
    if form == "peft":
        assert keys.keys() == edit.tensors.keys() and all(torch.equal(keys[key], edit.tensors[key]) for key in keys)
    save_file(keys, tmp_path / "lora.safetensors")
    again = models.load(str(folder), name)
    again.base.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    wanted = sample(module.model, module.student, ["a pizza", "a cat"], [1, 2], steps=4, guidance=3.0)
    torch.testing.assert_close(drawn_by(again.base, again), wanted, atol=2e-3, rtol=0)


def test_a_checkpoint_of_the_factors_goes_on_bit_for_bit(family, tmp_path):
    straight, *_ = erasing(*family)
    train(straight, 4)
    first, *_ = erasing(*family)
    train(first, 2).save_checkpoint(tmp_path / "half.ckpt")
    assert (tmp_path / "half.ckpt").stat().st_size < 4e5
    second, *_ = erasing(*family, seed=1)  # other numbers at the start: the checkpoint's count
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    trainer = pl.Trainer(
        max_steps=4, limit_train_batches=4, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    draws = Draws(concepts=1, templates=1, positions=8, batch=2, seed=0, staggered=True, start=2)
    trainer.fit(second, DataLoader(draws, batch_size=None), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    wanted = straight.trained_tensors()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in second.trained_tensors().items())


def test_convolutions_too_and_a_seed_is_a_seed(tmp_path):
    built("sd14").save_pretrained(tmp_path)
    module, teacher, student, names = erasing(tmp_path, "sd14", layers="esd-all", alpha=RANK)
    train(module)
    full = whole(edit_of(module, alpha=RANK), own_weights(teacher)).tensors
    assert set(full) == {name for name in names if name.endswith("weight")} and full["conv_in.weight"].dim() == 4
    wanted = sample(module.model, student, ["a pizza"], [5], **LOOK)
    apply_edit(teacher, edit_of(module, alpha=RANK))
    torch.testing.assert_close(sample(module.model, teacher, ["a pizza"], [5], **LOOK), wanted, atol=1e-4, rtol=0)
    for seed, same in ((0, True), (1, False)):
        one, two = (erasing(tmp_path, "sd14", seed=s)[0].trained_tensors() for s in (0, seed))
        assert all(torch.equal(one[name], two[name]) for name in one) == same


@pytest.mark.parametrize(
    ("layers", "rank", "said"),
    [
        ("esd-x", 1000, r"lora.rank=1000 is above the rank of \S+attn2\S+, 16: give lora.rank=16 or less"),
        ("esd-all", 17, "is above the rank of"),
    ],
)
def test_a_rank_above_a_layers_is_refused(layers, rank, said):
    unet = built("sd14").unet
    with pytest.raises(UserError, match=said) as error:
        lora.lora_student_of(unet, select_parameters(unet, rule(layers)), rank, rank, 0, layers)
    assert "\n" not in str(error.value)


def test_a_rule_of_vectors_alone_is_refused():
    unet = built("sd14").unet
    with pytest.raises(UserError, match="layers=norms names no matrix"):
        lora.lora_student_of(unet, ["conv_norm_out.weight", "conv_norm_out.bias"], 4, 4, 0, "norms")


def test_a_wrong_lora_edit_is_refused_before_anything_changes(tmp_path):
    unet, other = built("sd14").unet, built("sdxl").unet
    down, up = torch.ones(2, 16), torch.ones(16, 2)
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    good = tensors_of({key: (down, up)}, "unet")
    check_edit(unet, Edit(good))
    for wrong, net, said in (
        ({f"unet.{key}.lora_A.weight": down}, unet, "is no half of a LoRA's pair"),
        (good | {"conv_in.weight": torch.ones(1)}, unet, "conv_in.weight is no half"),
        (tensors_of({"nope": (down, up)}, "unet"), unet, "nope.weight is no weight of this model"),
        (tensors_of({key: (down, torch.ones(15, 2))}, "unet"), unet, r"is \(15, 16\), this model's \(16, 16\)"),
        (tensors_of({key: (down * float("nan"), up)}, "unet"), unet, "holds no finite numbers"),
        (good, other, "is no weight of this model|this model's"),
    ):
        with pytest.raises(UserError, match=said):
            apply_edit(net, Edit(wrong))


def test_a_run_with_lora_leaves_its_factors_and_exports_take_them(esd, tmp_path):
    done = esd(
        "train", "concept=pizza", "lora.rank=4", "steps=2", "batch=2", "sampling_steps=2", "logger=none", "evaluate=false",
        "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "esd-x, LoRA 4: " in done.stdout
    edit = read_edit(tmp_path / "run")
    assert edit.record["lora"] == {"rank": 4, "alpha": 4} and all(".lora_" in key for key in edit.tensors)
    said = {}
    for to in ("lora", "official", "single-file", "diffusers"):
        console = Console(record=True, width=500, file=io.StringIO())
        (tmp_path / to).mkdir()
        export(configured(f"edit={tmp_path / 'run'}", f"to={to}"), tmp_path / to, console)
        said[to] = console.export_text()
    assert "warning" not in str(said) and "Relative error of the weights: 0.0000" in said["lora"]
    denoiser = models.load(None, "emoji").denoiser
    merged = whole(edit, own_weights(denoiser)).tensors
    official = load_file(next((tmp_path / "official").glob("*.safetensors")))
    assert official.keys() == merged.keys() and all(torch.equal(official[key], merged[key]) for key in merged)
    state = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "diffusers").unet.state_dict()
    file = load_file(next((tmp_path / "single-file").glob("*.safetensors")))
    for key, name in layout.unet_names(denoiser).items():
        if key in merged:
            torch.testing.assert_close(state[key].float(), merged[key], atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(file[f"model.diffusion_model.{name}"].float(), merged[key], atol=1e-3, rtol=1e-3)
