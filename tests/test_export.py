"""Every export, loaded back by the loader it is made for, yields the edit's pictures."""

import io
import itertools
import json
import re
import warnings
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from families import built
from hydra import compose, initialize_config_dir
from rich.console import Console
from safetensors.torch import load_file, save_file
from test_layers import rule

from esd import UserError, load_edit, models
from esd.command.entry import CONF
from esd.erasing.edit import Edit, apply_edit, read_edit, save_edit
from esd.erasing.layers import select_parameters
from esd.export import layout, lora
from esd.export.card import card
from esd.export.forms import check, configurations, export
from esd.models.hashes import fingerprint
from esd.models.sizes import sd14_unet, sdxl_unet
from esd.sample.sampling import sample

NOISE = [1, 2]
WITHIN = 2e-3  # of pictures in [0, 1]: half a level of 255, the order in which float32 sums are taken


def made(denoiser, layers="esd-x", weights_only=False, seed=0, size=0.5) -> Edit:
    """A change as large as training's never is, so that a tensor left behind shows."""
    generator, state = torch.Generator().manual_seed(seed), dict(denoiser.named_parameters())
    names = [name for name in select_parameters(denoiser, rule(layers)) if state[name].dim() > 1 or not weights_only]
    tensors = {}
    for name in names:
        scale = state[name].detach().std() if state[name].numel() > 1 and state[name].std() > 0 else 0.02
        tensors[name] = state[name].detach() + size * scale * torch.randn(state[name].shape, generator=generator)
    record = {"base": "tiny", "base_hash": fingerprint(denoiser), "concept": ["pizza"], "erase_from": [""], "eta": 1.0}
    return Edit(tensors, record)


def model_of(family, tmp_path):
    if family == "emoji":
        return models.load(None, "emoji")
    built(family).save_pretrained(tmp_path / "base")
    return models.load(str(tmp_path / "base"), family)


def drawn(model, denoiser=None) -> torch.Tensor:
    return sample(model, denoiser or model.denoiser, ["a pizza", "a cat"], NOISE, steps=4, guidance=3.0)


def drawn_by(pipe, model) -> torch.Tensor:
    """What a third party's pipeline draws, from the same noise."""
    from test_models import by_diffusers

    scheduled = model.pipeline(model.denoiser)
    pipe.scheduler, model.pipeline = scheduled.scheduler, lambda denoiser: pipe
    if hasattr(pipe, "default_sample_size"):
        pipe.default_sample_size = model.latent_shape[-1]
    return by_diffusers(model, None, ["a pizza", "a cat"], NOISE, 4, 3.0)


def same_pictures(pipe, model, edit, within=WITHIN):
    """The pipe draws what the edit draws, which is not what the base draws."""
    before = drawn(model)
    replaced = apply_edit(model.denoiser, edit)
    wanted = drawn(model)
    assert (wanted - before).abs().max() > 10 * within, "the edit shows in no picture: the test says nothing"
    torch.testing.assert_close(drawn_by(pipe, model), wanted, atol=within, rtol=0)
    apply_edit(model.denoiser, Edit(replaced))


@pytest.mark.parametrize("family", ["emoji", "sdxl", "sd3", "flux"])
def test_a_diffusers_folder(family, tmp_path):
    model = model_of(family, tmp_path)
    edit = made(model.denoiser, "esd-u")
    replaced = apply_edit(model.denoiser, edit)
    model.base.save_pretrained(tmp_path / "folder")
    apply_edit(model.denoiser, Edit(replaced))
    same_pictures(diffusers.DiffusionPipeline.from_pretrained(tmp_path / "folder"), model, edit)


@pytest.mark.parametrize("family", ["emoji", "sd14", "sd21", "sdxl"])
def test_a_single_file(family, tmp_path):
    """By diffusers' own loader, and by ours, which reads the family from the configurations beside it."""
    model = model_of(family, tmp_path)
    edit = made(model.denoiser, "esd-all")
    replaced = apply_edit(model.denoiser, edit)
    save_file(layout.original(model.base), tmp_path / "one.safetensors", {"format": "pt"})
    configurations(model.base, tmp_path / "one")
    apply_edit(model.denoiser, Edit(replaced))
    assert not list((tmp_path / "one").rglob("*.safetensors"))
    pipe = type(model.base).from_single_file(str(tmp_path / "one.safetensors"), config=str(tmp_path / "one"))
    again = models.load(str(tmp_path / "one.safetensors"), "again")
    same_pictures(pipe, model, edit)
    for ours, theirs in ((again.base.unet, pipe.unet), (again.base.vae, pipe.vae)):
        assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize("family", ["emoji", "sdxl", "flux"])
def test_the_authors_file(family, tmp_path):
    """Loaded as their scripts load it: every name known, the rest as it was."""
    model = model_of(family, tmp_path)
    edit = made(model.denoiser)
    save_edit(tmp_path / "official.safetensors", edit)
    pipe = models.load(None if family == "emoji" else str(tmp_path / "base"), "another").base
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    assert not denoiser.load_state_dict(load_file(tmp_path / "official.safetensors"), strict=False).unexpected_keys
    same_pictures(pipe, model, edit)


@pytest.mark.parametrize("full_size", [sd14_unet, sdxl_unet])
def test_the_original_names_are_those_that_diffusers_reads(full_size):
    """Of the full-size U-Nets, name by name."""
    with torch.device("meta"):
        unet = full_size()
    names = layout.unet_names(unet)
    assert len(set(names.values())) == len(names) == len(unet.state_dict())
    back = convert_ldm_unet_checkpoint({f"model.diffusion_model.{new}": old for old, new in names.items()}, unet.config)
    assert back == {name: name for name in names}
    assert ("output_blocks.11.0.skip_connection.weight" in names.values()) == (full_size is sd14_unet)


def test_a_single_file_of_a_transformer_is_refused(tmp_path):
    with pytest.raises(UserError, match="to=single-file is for Stable Diffusion 1, 2 and XL"):
        layout.original(built("sd3"))


@pytest.mark.parametrize(
    ("family", "keys", "layers"),
    [
        *itertools.product(["emoji"], ["peft", "kohya"], ["esd-x", "esd-all"]), ("sdxl", "peft", "esd-all"),
        ("sdxl", "kohya", "esd-all"), ("sd3", "peft", "esd-x"), ("flux", "peft", "esd-all"),
    ],
)  # fmt: skip
def test_a_lora_of_full_rank_is_the_edit(family, keys, layers, tmp_path):
    model = model_of(family, tmp_path)
    edit = made(model.denoiser, layers, weights_only=True)
    base = {name: p.detach() for name, p in model.denoiser.named_parameters() if name in edit.tensors}
    whole = lora.decompose(base, edit.tensors, rank=10**6)
    assert whole.error < 1e-5 and not whole.left_out and len(whole.factors) == len(edit.tensors)
    write = lora.peft_keys if keys == "peft" else lora.kohya_keys
    save_file(write(whole, model.denoiser), tmp_path / "lora.safetensors")
    pipe = models.load(None if family == "emoji" else str(tmp_path / "base"), "another").base
    pipe.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    same_pictures(pipe, model, edit)


@pytest.mark.parametrize(("full_size", "modules"), [(sd14_unet, 64), (sdxl_unet, 280)])
def test_kohyas_names_are_those_that_comfyui_and_diffusers_look_for_and_pefts_are_not(full_size, modules):
    """ComfyUI looks for lora_unet_ and the original name or diffusers', dots as underscores; for diffusers' names with dots it
    wants .processor. in them, as an old diffusers wrote."""
    with torch.device("meta"):
        unet = full_size()
    names = [name for name in select_parameters(unet, rule("esd-x")) if name.endswith(".weight")]
    shapes = {name: unet.get_parameter(name).shape for name in names}
    factors = {
        name.removesuffix(".weight"): (torch.zeros(1, shape[1], device="meta"), torch.zeros(shape[0], 1, device="meta"))
        for name, shape in shapes.items()
    }
    made_of = lora.Lora(factors, 1, [], 0.0)
    original = layout.unet_names(unet)  # tested above to be what diffusers reads
    comfyui = {f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}" for pair in original.items() for name in pair}
    comfyui |= {f"unet.{name.removesuffix('.weight').replace('.to_', '.processor.to_')}" for name in original}

    kohya = lora.kohya_keys(made_of, unet)
    found = {key.split(".")[0] for key in kohya}
    assert len(found) == modules and found <= comfyui
    assert not {key.rsplit(".lora_", 1)[0] for key in lora.peft_keys(made_of, unet)} & comfyui

    pipe = diffusers.StableDiffusionXLPipeline if full_size is sdxl_unet else diffusers.StableDiffusionPipeline
    read = pipe.lora_state_dict(dict(kohya), unet_config=unet.config)[0]
    own = {re.sub(r"\.processor\.to_(\w+?)_lora\..*", r".to_\1", key.removeprefix("unet.")) for key in read}
    assert {re.sub("to_out$", "to_out.0", name) for name in own} == set(factors)


def test_a_loras_error_is_what_its_rank_leaves():
    torch.manual_seed(0)
    base = {"a.weight": torch.randn(12, 8), "b.weight": torch.randn(6, 4, 3, 3)}
    base |= {"b.bias": torch.zeros(6), "c.weight": torch.ones(5)}
    edit = {name: tensor + torch.randn_like(tensor) for name, tensor in base.items()}
    errors = []
    for rank in (1, 2, 4, 8):
        made_of = lora.decompose(base, edit, rank=rank)
        assert made_of.rank == rank and sorted(made_of.left_out) == ["b.bias", "c.weight"]
        assert {(d.shape[0], u.shape[1]) for d, u in made_of.factors.values()} == {(rank, rank)}  # one rank, one alpha
        done = base | made_of.tensors(base)
        left = sum((edit[n] - done[n]).square().sum() for n in base) / sum((edit[n] - base[n]).square().sum() for n in base)
        assert made_of.error == pytest.approx(float(left.sqrt()), rel=1e-4)
        errors.append(made_of.error)
    assert errors == sorted(errors, reverse=True)
    matrices = {name: tensor for name, tensor in edit.items() if tensor.dim() > 1}
    for energy in (0.3, 0.8, 1.0):
        kept = lora.decompose(base, matrices, energy=energy)
        assert 1 - kept.error**2 >= energy - 1e-6
        assert kept.rank == 1 or 1 - lora.decompose(base, matrices, rank=kept.rank - 1).error ** 2 < energy


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank=0 keeps nothing"), ({"energy": 0.0}, "energy=0.0 must be above 0"), ({"energy": 1.5}, "energy=1.5"),
        ({}, "either rank=16 or energy=0.95"), ({"rank": 2, "energy": 0.5}, "either rank=16 or energy=0.95"),
    ],
)  # fmt: skip
def test_a_lora_of_nothing_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        lora.decompose({"a.weight": torch.zeros(2, 2)}, {"a.weight": torch.ones(2, 2)}, **options)


def test_a_lora_of_biases_alone_is_refused():
    with pytest.raises(UserError, match="changes no matrix"):
        lora.decompose({"a.bias": torch.zeros(2)}, {"a.bias": torch.ones(2)}, rank=1)


@pytest.fixture
def saved(tmp_path):
    """(pipeline, two edits' paths) on a tiny Stable Diffusion."""
    pipe, paths = built("sd14"), []
    for seed, layers in enumerate(("esd-x", "esd-x-strict")):
        paths.append(tmp_path / f"{seed}.safetensors")
        save_edit(paths[-1], made(pipe.unet, layers, seed=seed))
    return pipe, *paths


def state(pipe):
    return {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}


def test_an_edit_at_any_strength_and_off_again(saved):
    pipe, path, _ = saved
    base, edit = state(pipe), read_edit(path).tensors
    assert load_edit(pipe, path) == []
    assert all(torch.equal(tensor, edit.get(name, base[name])) for name, tensor in state(pipe).items())
    load_edit(pipe, path, strength=0.25)
    for name, tensor in edit.items():
        torch.testing.assert_close(state(pipe)[name], 0.75 * base[name] + 0.25 * tensor, atol=1e-6, rtol=1e-5)
    load_edit(pipe, path, strength=0)
    assert all(torch.equal(tensor, base[name]) for name, tensor in state(pipe).items())


def test_two_edits_add_up_and_their_conflict_is_reported(saved):
    pipe, first, second = saved
    base, a, b = state(pipe), read_edit(first).tensors, read_edit(second).tensors
    load_edit(pipe, first)
    with pytest.warns(
        UserWarning, match=r"'pizza' \(1.safetensors\) and 'pizza' \(0.safetensors\) both change \d+ .* \(cosine [+-]0.0"
    ):
        (overlap,) = load_edit(pipe, second, strength=0.5)
    assert overlap.tensors == len(b) and abs(overlap.cosine) < 0.1
    for name, tensor in state(pipe).items():
        expected = base[name] + (a[name] - base[name] if name in a else 0) + (0.5 * (b[name] - base[name]) if name in b else 0)
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_edit(pipe, first, strength=0)
        load_edit(pipe, second, strength=0)
    assert all(torch.equal(tensor, base[name]) for name, tensor in state(pipe).items())


def test_an_edit_for_another_model(saved, tmp_path):
    _, path, _ = saved
    torch.manual_seed(7)
    from families import sd1

    other = sd1()
    named = r"made for tiny \(\w{12}\), and this UNet2DConditionModel \(\w{12}\) has other weights"
    with pytest.warns(UserWarning, match=named):
        load_edit(other, path)
    fresh = sd1()
    before = state(fresh)
    with pytest.raises(UserError, match="made for tiny"):
        load_edit(fresh, path, strict=True)
    with pytest.raises(UserError, match="is no weight of this|this model's"):
        load_edit(built("sdxl"), path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(fresh).items())
    theirs = tmp_path / "theirs.safetensors"  # the authors' script keeps no record
    save_file(read_edit(path).tensors, theirs)
    load_edit(fresh, theirs)
    with pytest.raises(UserError, match="does not say which model"):
        load_edit(sd1(), theirs, strict=True)


def test_a_pipeline_in_half_precision_is_the_same_model(saved):
    pipe, path, _ = saved
    pipe.to(torch.float16)
    base = state(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_edit(pipe, path, strict=True)
    assert next(pipe.unet.parameters()).dtype == torch.float16
    load_edit(pipe, path, strength=0)
    assert all(torch.equal(tensor, base[name]) for name, tensor in state(pipe).items())
    with pytest.raises(UserError, match="strength=1.5"):
        load_edit(pipe, path, strength=1.5)


def test_a_pickle_is_read_only_where_it_is_allowed(saved, tmp_path):
    pipe, path, _ = saved
    tensors = read_edit(path).tensors
    torch.save(tensors, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match="a pickle can run code .* allow_pickle=True"):
        load_edit(pipe, tmp_path / "theirs.pt")
    load_edit(pipe, tmp_path / "theirs.pt", allow_pickle=True)
    assert all(torch.equal(state(pipe)[name], tensor) for name, tensor in tensors.items())
    torch.save({"not": ["tensors"]}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="no dictionary of tensors"):
        load_edit(pipe, tmp_path / "other.pt", allow_pickle=True)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "theirs.pt").read_bytes()[:900])
    with pytest.raises(UserError, match="damaged"):
        load_edit(pipe, tmp_path / "cut.pt", allow_pickle=True)


def test_importing_esd_is_light():
    import subprocess
    import sys

    asked = "import sys, esd; print('torch' in sys.modules, 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout.split() == ["False", "False"]


@pytest.fixture(scope="module")
def of_the_embedded_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    edit = made(models.load(None, "emoji").denoiser, size=0.1)
    save_edit(folder / "edit.safetensors", edit)
    count = {"hits": 1, "of": 24, "rate": 1 / 24}
    metrics = {"protocol": "emoji-1-short", "base": {"kept": count}, "edit": {"kept": count}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def configured(*options):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("export", list(options))


def test_a_card_says_what_was_solved_and_not_trained():
    record = {"concept": ["pizza"], "steps": 30, "batch": 10, "closed_form": 0.0}
    trained, solved = (
        card(record | more, {}, {}, "official", "a.safetensors", "P") for more in ({}, {"closed_form": 10.0, "steps": 0})
    )
    assert "Fine-tuned by ESD" in trained and "closed form" not in trained
    assert "Solved in closed form" in solved and "solved in closed form, μ = 10.0" in solved and "Fine-tuned" not in solved


def test_a_card_names_no_folder_as_a_model_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models/sd").mkdir(parents=True)
    said = [card({"base": base, "concept": ["pizza"]}, {}, {}, "official", "a", "P") for base in ("models/sd", "someone/sd")]
    assert "base_model" not in said[0] and 'base_model: "someone/sd"' in said[1]


@pytest.mark.parametrize("to", ["official", "diffusers", "single-file", "lora"])
def test_an_export_has_its_card(of_the_embedded_model, tmp_path, to):
    said = Console(record=True, width=500, quiet=False, file=io.StringIO())
    cfg = configured(f"edit={of_the_embedded_model}", f"to={to}", *(["rank=4"] if to == "lora" else []))
    export(cfg, tmp_path, said)
    card, said = (tmp_path / "README.md").read_text(), said.export_text()
    assert "without pizza" in card and "(1 of 24)" in card and "Licence" in card
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == (3 if to == "diffusers" else 1)
    assert to == "diffusers" or f"`{files[0].name}`" in card or f'"{files[0].name}"' in card
    if to == "lora":
        assert "Relative error of the weights: 0." in said and "Left out: " in said and "of 255 levels" in said
    if to == "official":
        assert load_file(files[0]).keys() == read_edit(of_the_embedded_model).tensors.keys()


@pytest.mark.parametrize(
    ("asked", "on_disk", "wanted"), [(None, "half", "F16"), (None, "float", "F32"), ("bf16", "float", "BF16")]
)
def test_a_single_file_is_in_the_bases_precision_or_in_the_one_asked_for(asked, on_disk, wanted, tmp_path):
    from safetensors import safe_open

    pipe = built("sd21")
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        getattr(part, on_disk)()
    pipe.save_pretrained(tmp_path / "base")
    model = models.load(str(tmp_path / "base"), "sd21")
    edit = made(model.denoiser, size=0.1)
    save_edit(tmp_path / "edit.safetensors", edit)
    options = [f"edit={tmp_path}/edit.safetensors", "to=single-file", "model=sd21", f"model.path={tmp_path}/base"]
    cfg = configured(*options, *([f"dtype={asked}"] if asked else []))
    check(cfg)
    (tmp_path / "out").mkdir()
    export(cfg, tmp_path / "out", Console(file=io.StringIO()))
    (file,) = (tmp_path / "out").glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        kinds = {opened.get_slice(name).get_dtype() for name in opened.keys() if name != "v_pred"}  # noqa: SIM118
        assert kinds == {wanted} and "v_pred" in opened.keys()  # noqa: SIM118
        assert opened.metadata()["modelspec.prediction_type"] == "v"
    again, dtype = models.load(str(file), "again"), {"F16": torch.float16, "F32": torch.float32, "BF16": torch.bfloat16}[wanted]
    for name, tensor in again.denoiser.named_parameters():
        assert torch.equal(tensor.to(dtype), edit.tensors.get(name, model.denoiser.get_parameter(name)).to(dtype))


def test_the_command(esd, of_the_embedded_model):
    done = esd("export", f"edit={of_the_embedded_model}", "to=official", "hydra.run.dir=out")
    assert done.returncode == 0 and "warning" not in done.stdout, done.stderr
    assert (done.folder / "out" / "README.md").is_file() and (done.folder / "out" / "emoji-without-pizza.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["to=onnx"], "to=onnx is unknown: official, diffusers, single-file, lora"),
        (["to=lora", "rank=0"], "rank=0 must be a whole number, 1 or more"),
        (["to=lora", "rank=x"], "rank=x must be a whole number, 1 or more"),
        (["to=diffusers", "rank=4"], "rank, energy and format are a LoRA's"),
        (["to=lora", "format=webui"], "format=webui is unknown: peft, kohya"),
        (["to=single-file", "dtype=int8"], "dtype=int8 is unknown: fp16, bf16, fp32"),
        (["to=diffusers", "dtype=fp16"], "dtype=fp16 is for to=single-file"),
        (["to=diffusers", "model.prediction=x0"], "model.prediction=x0 is unknown: auto, epsilon, v"),
    ],
)
def test_the_command_answers_a_wrong_option_in_one_line(options, said):
    with pytest.raises(UserError, match=said):
        check(configured("edit=x", *options))


def test_the_benchmark_finds_the_technique(of_the_embedded_model):
    import importlib
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["eval_unlearn.techniques"]["erased-diffusion"].split(":")
    technique = getattr(importlib.import_module(module), name)(edit=str(of_the_embedded_model), steps=2, concept="unused")
    first, second = technique.generate(["a pizza", "a cat"], seed=3, batch_size=1)
    assert first.size == (64, 64) and first.mode == "RGB"
    again = technique.generate(["a cat"], seed=4)[0]  # alone, where before it was drawn beside another
    levels = zip(again.tobytes(), second.tobytes(), strict=True)
    assert max(abs(one - other) for one, other in levels) <= 1
