"""What holds for every family, on the real classes with small random weights; and how models are found."""

import json
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from families import PIPELINES, built
from huggingface_hub.errors import RemoteEntryNotFoundError
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file
from tiny import parts, trained_for

from esd import UserError, models
from esd.command.entry import CONF
from esd.erasing.concepts import Concept, Draws
from esd.erasing.edit import Edit, apply_edit, read_edit, save_edit
from esd.erasing.erasure import erasure_target
from esd.export import layout
from esd.models.encoders import where_they_fit
from esd.sample.sampling import sample

TEXTS = ["a pizza", "", "van gogh"]


@pytest.fixture(scope="module", params=PIPELINES)
def folder(request, tmp_path_factory):
    """The family's pipeline on disk, as diffusers writes it."""
    place = tmp_path_factory.mktemp(request.param) / "model"
    built(request.param).save_pretrained(place)
    return place


@pytest.fixture
def model(folder):
    return models.load(str(folder), folder.parent.name)


def rule(name: str) -> dict:
    with initialize_config_dir(str(CONF / "layers"), version_base="1.3"):
        return compose(name)


def erasing(model, **kwargs):
    """(module, teacher, student, sampler, prompts), training what attends to the text."""
    return parts(model, [Concept("a pizza", eta=kwargs.pop("eta", 1.0))], include=rule("esd-x").include, **kwargs)


def by_diffusers(model, denoiser, prompts, seeds, steps, guidance):
    """The pictures of the real pipeline, from the same noise."""
    noise = model.noise(seeds)
    options = {"guidance_scale": guidance}
    if isinstance(model.base, FluxPipeline):
        noise = FluxPipeline._pack_latents(noise, *noise.shape)
        options = {"true_cfg_scale": guidance, "negative_prompt": [""] * len(prompts)}
    pipe = model.pipeline(denoiser)
    pipe.set_progress_bar_config(disable=True)
    return pipe(prompts, num_inference_steps=steps, latents=noise, output_type="pt", **options).images


def test_prompts_become_a_condition_row_by_row(model):
    together = model.encode(TEXTS)
    assert all(len(tensor) == 3 and tensor.dtype == torch.float32 for tensor in together.values())
    for row, text in enumerate(TEXTS):
        for name, tensor in model.encode([text]).items():
            torch.testing.assert_close(tensor[0], together[name][row], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(*next(iter(together.values()))[:2])


def test_each_latent_is_predicted_at_its_own_time_step(model):
    sampler, condition = model.sampler(5), model.encode(["a pizza", "a cat", ""])
    x, position = model.noise([1, 2, 3]), torch.tensor([0, 4, 2])
    with torch.no_grad():
        together = model.predict(model.denoiser, sampler.scaled(x, position), sampler.timesteps[position], condition)
        assert together.shape == x.shape
        for i in range(3):
            one = model.predict(
                model.denoiser, sampler.scaled(x[i : i + 1], position[i : i + 1]), sampler.timesteps[position[i : i + 1]],
                {name: tensor[i : i + 1] for name, tensor in condition.items()},
            )  # fmt: skip
            torch.testing.assert_close(together[i : i + 1], one, atol=1e-5, rtol=1e-4)


def test_steps_are_the_pipelines_own_schedulers(model):
    """One latent walked by the diffusers scheduler, one step after the other; ours takes all the steps at once."""
    ours, theirs = model.sampler(7), model.pipeline(model.denoiser).scheduler
    if isinstance(model.base, FluxPipeline):
        patches = (model.latent_shape[-1] // 2) ** 2
        theirs.set_timesteps(sigmas=np.linspace(1, 1 / 7, 7), mu=calculate_shift(patches))
    else:
        theirs.set_timesteps(7)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, atol=1e-3, rtol=1e-6)
    torch.manual_seed(0)
    predictions, noise = torch.randn(7, *model.latent_shape), model.noise([0])
    x = ours.start(noise)
    torch.testing.assert_close(x, noise * getattr(theirs, "init_noise_sigma", 1.0))
    walked, seen = [x], []
    for t, prediction in zip(theirs.timesteps, predictions, strict=True):
        seen.append(theirs.scale_model_input(walked[-1], t) if hasattr(theirs, "scale_model_input") else walked[-1])
        walked.append(theirs.step(prediction[None], t, walked[-1]).prev_sample)
    everywhere, here = torch.arange(7), torch.cat(walked[:-1])
    torch.testing.assert_close(ours.scaled(here, everywhere), torch.cat(seen), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.step(here, predictions, everywhere), torch.cat(walked[1:]), atol=1e-5, rtol=1e-5)


def test_the_loss_at_the_start_is_the_papers(model):
    """Student = teacher: (1 + η)²·mean((ε_c − ε_∅)²), and at η = 0 the target is ε_∅ itself."""
    module, *_, prompts = erasing(model, eta=2.0)
    draw = Draws(concepts=1, templates=1, positions=8, batch=3, seed=0).at(0)
    with torch.no_grad():
        _, eps_c, eps_null, eps_f = module.trajectories.examples(draw)
        assert torch.equal(erasure_target(eps_f, eps_c, eps_null, 0.0), eps_null)
        module._trainer = type("Trainer", (), {"global_step": 1, "log_every_n_steps": 10})()
        module.log = lambda *args, **kwargs: None
        loss = module.training_step(draw, 0)
    torch.testing.assert_close(loss, 9 * (eps_c - eps_null).square().mean(), rtol=1e-3, atol=1e-9)
    assert (eps_c - eps_null).abs().max() > 1e-5  # the prompt matters to the random weights, or the test says nothing


def test_one_training_step_moves_the_chosen_tensors_and_they_travel(model, folder, tmp_path):
    """… with the teacher bit-identical, no other tensor touched, and the edit the same on a fresh copy of the model."""
    before = {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}
    module, teacher, student, *_ = erasing(model, source="pool", lr=1e-2)
    trained_for(module, Draws(concepts=1, templates=1, positions=8, batch=2, seed=0, staggered=True), 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    moved = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and moved <= set(module.trained)
    assert len(moved) >= len(module.trained) * 0.9  # a bias of keys has no gradient: softmax does not see it

    save_edit(tmp_path / "edit.safetensors", Edit(module.trained_tensors()))
    again = models.load(str(folder), "again")
    apply_edit(again.denoiser, read_edit(tmp_path))
    look = {"steps": 3, "guidance": 3.0}
    ours = sample(model, student, TEXTS[:1], [5], **look)
    assert torch.equal(ours, sample(again, again.denoiser, TEXTS[:1], [5], **look))
    assert (ours - sample(model, teacher, TEXTS[:1], [5], **look)).abs().max() > 1e-3


def test_our_pictures_are_the_pipelines(model):
    prompts, seeds = ["a pizza", "a cat"], [3, 4]
    ours = sample(model, model.denoiser, prompts, seeds, steps=5, guidance=3.0)
    theirs = by_diffusers(model, model.denoiser, prompts, seeds, 5, 3.0)
    assert ours.shape == theirs.shape and ours.std() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


def test_flux_without_a_guidance_number():
    """schnell's transformer is told none."""
    from esd.models.flux import Flux

    torch.manual_seed(0)
    model = Flux(PIPELINES["flux"](told=False), "schnell")
    ours = sample(model, model.denoiser, ["a pizza"], [0], steps=2, guidance=1.0)
    torch.testing.assert_close(ours, by_diffusers(model, model.denoiser, ["a pizza"], [0], 2, 1.0), atol=2e-4, rtol=0)


def test_sdxls_null_prompt_is_zeros_where_its_pipeline_says_so():
    from esd.models.sdxl import StableDiffusionXL

    zeros = StableDiffusionXL(built("sdxl"), "sdxl").encode(["", "a cat"])
    assert not zeros["encoder_hidden_states"][0].any() and not zeros["text_embeds"][0].any()
    assert zeros["encoder_hidden_states"][1].any()
    pipe = built("sdxl")
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    assert StableDiffusionXL(pipe, "sdxl").encode([""])["encoder_hidden_states"].any()


def test_a_hub_name_without_a_hub_is_one_line_within_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    started = time.perf_counter()
    with pytest.raises(UserError, match="hf download someone/nothing-here --local-dir models/nothing-here") as error:
        models.folder_of("someone/nothing-here")
    assert time.perf_counter() - started < 10 and "\n" not in str(error.value)
    assert "model.path=models/nothing-here" in str(error.value)


def test_what_is_no_pipeline_on_the_hub_is_said(monkeypatch, tmp_path):
    """A LoRA's repository, for example. The hub's two answers are what its client makes of them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: SimpleNamespace(gated=False))

    def no_such_file(*args, **kwargs):
        raise RemoteEntryNotFoundError("404", response=httpx.Response(404, request=httpx.Request("HEAD", "https://hub")))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_such_file)
    with pytest.raises(UserError, match=r"someone/a-lora on the hub is no diffusers pipeline, it has no model_index\.json"):
        models.folder_of("someone/a-lora")


def test_a_checkpoint_without_its_configurations_says_what_to_download_and_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_file(layout.original(built("sd14")), tmp_path / "mine.safetensors")
    with pytest.raises(UserError) as error:
        models.load(str(tmp_path / "mine.safetensors"), "mine")
    said = str(error.value)
    assert "\n" not in said and "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --include" in said
    assert f"--local-dir {tmp_path / 'mine'}`" in said


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("nowhere", "does not exist"),
        ("no index", "no model_index.json"),
        ("broken index", "is damaged"),
        ("other family", "holds a WanPipeline: supported are Stable Diffusion 1, 2, XL and 3, and FLUX.1"),
        ("no unet", "not complete, it has no unet:"),
        ("no weights", "no unet/diffusion_pytorch_model.safetensors"),
        ("cut weights", "cannot be read"),
        ("fewer weights", r"unet holds \d+ of the \d+ tensors"),
        ("fewer weights in one file", "lacks tensors of its U-Net or VAE"),
        ("fewer words in one file", "lacks the tensor final_layer_norm.bias of its text_encoder"),
        ("pickle", "no .safetensors file; a pickle"),
        ("cut file", "damaged or cut short"),
        ("an edit", "holds no diffusion model"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path, damage, said):
    place = tmp_path / "model"
    built("sd14").save_pretrained(place)
    index, weights = place / "model_index.json", place / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "nowhere":
        place = tmp_path / "x" / "y"
    elif damage == "no index":
        index.unlink()
    elif damage == "broken index":
        index.write_text("{")
    elif damage == "other family":
        index.write_text(json.dumps({"_class_name": "WanPipeline"}))
    elif damage == "no unet":
        weights.unlink()
        (place / "unet" / "config.json").unlink()
        (place / "unet").rmdir()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "fewer weights":
        kept = {name: tensor for name, tensor in load_file(weights).items() if name != "conv_out.bias"}
        save_file(kept, weights, {"format": "pt"})
    elif damage.endswith("in one file"):
        whole, place = layout.original(built("sd14")), tmp_path / "model.safetensors"  # beside model/, its configurations
        lost = "diffusion_model.out.2.bias" if damage == "fewer weights in one file" else "final_layer_norm.bias"
        save_file({name: tensor for name, tensor in whole.items() if not name.endswith(lost)}, place)
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        place = tmp_path / ("model.ckpt" if damage == "pickle" else "model.safetensors")
        save_file({"down_blocks.0.attn2.to_k.weight": torch.ones(4)}, place)
        if damage == "cut file":
            place.write_bytes(place.read_bytes()[:-4])
    with pytest.raises(UserError, match=said) as error:
        models.load(str(place), "x")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_stable_diffusion_at_full_size_takes_a_step_within_24_gib():
    """Random weights of SD 1.4's sizes, on the processor: one walk and one step of ESD-x. Run it alone: it asks the
    process for its peak."""
    import resource

    from diffusers import AutoencoderKL
    from families import clip_tokenizer, sd1
    from transformers import CLIPTextConfig, CLIPTextModel

    from esd.models.sizes import sd14_unet
    from esd.models.stable_diffusion import StableDiffusion

    base = sd1()
    base.unet = sd14_unet()
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=77, bos_token_id=52, eos_token_id=53,
    )  # fmt: skip
    base.text_encoder, base.tokenizer = CLIPTextModel(text), clip_tokenizer()
    base.tokenizer.model_max_length = 77
    base.vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    model = StableDiffusion(base, "sd14")
    module, teacher, student, *_ = erasing(model, source="pool", steps=4, lr=1e-5)
    before = {name: p.clone() for name, p in student.named_parameters() if p.requires_grad}
    trained_for(module, Draws(concepts=1, templates=1, positions=4, batch=1, seed=0, staggered=True), 1)
    after = dict(student.named_parameters())
    assert any(not torch.equal(after[name], tensor) for name, tensor in before.items())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 24 * 2**20  # KiB


@pytest.mark.parametrize("damaged", [False, True])
def test_a_part_that_is_never_loaded_is_of_any_library_and_may_be_damaged(damaged, tmp_path):
    """As in every published Stable Diffusion 1 (CompVis/stable-diffusion-v1-4, model_index.json)."""
    built("sd14").save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    index |= {"feature_extractor": ["transformers", "CLIPImageProcessor"]}
    index.pop("requires_safety_checker", None)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "safety_checker").mkdir()
    if damaged:
        (tmp_path / "safety_checker" / "config.json").write_text("{")
        (tmp_path / "safety_checker" / "model.safetensors").write_bytes(b"cut short")
    model = models.load(str(tmp_path), "sd14")
    assert model.base.safety_checker is None and len(model.encode(["a pizza"])["encoder_hidden_states"]) == 1


def test_the_autoencoder_does_not_compute_in_float16(tiny):
    """XL's overflows there; autocast would have it so whatever its weights are."""
    x, picture = tiny.noise([1]), torch.rand(1, 3, 16, 16)
    plain = tiny.decode(x), tiny.latents(picture)
    with torch.autocast("cpu", torch.float16):
        half = tiny.decode(x), tiny.latents(picture)
    assert all(map(torch.equal, plain, half))


def test_text_encoders_go_where_there_is_room(tiny, monkeypatch):
    encoders, gpu = [tiny.base.text_encoder], torch.device("cuda")
    size = sum(p.numel() * p.element_size() for p in tiny.base.text_encoder.parameters())
    for free, found in ((2 * size, "cuda"), (size, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80e9))
        assert where_they_fit(encoders, gpu).type == found
    assert where_they_fit(encoders, torch.device("cpu")).type == "cpu"
