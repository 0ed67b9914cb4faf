"""What a model predicts: ε or v, as its files say or its user does; and what a run says it has taken."""

import json

import pytest
import torch
from families import built
from safetensors.torch import load_file, save_file

from esd import UserError, models
from esd.export import layout
from esd.models.samplers import DDIM, Euler
from esd.sample.sampling import sample
from esd.train.announcement import model_taken

V2 = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
LOOK = {"steps": 4, "guidance": 3.0}


def single(family: str, folder, *keys: str):
    """A checkpoint in one file with these keys beside its weights, and its configurations in a folder of its name."""
    pipe = built(family)
    pipe.save_pretrained(folder / "model")
    state = layout.original(pipe)
    save_file({**state, **{key: torch.empty(0) for key in keys}}, folder / "model.safetensors", {"format": "pt"})
    return folder / "model.safetensors"


def drawn_by_diffusers(model):
    pipe = model.pipeline(model.denoiser)
    pipe.set_progress_bar_config(disable=True)
    return pipe("a cat", num_inference_steps=4, guidance_scale=3.0, latents=model.noise([1]), output_type="pt").images


@pytest.mark.parametrize("family", ["sdxl", "sd14"])
def test_a_file_with_v_pred_and_ztsnr_is_v_with_zero_terminal_snr_and_its_export_too(family, tmp_path):
    file = single(family, tmp_path, "v_pred", "ztsnr")
    model = models.load(str(file), family)
    config = model.scheduler.config
    assert config.prediction_type == "v_prediction" and config.rescale_betas_zero_snr and config.timestep_spacing == "trailing"
    assert int(model.sampler(4).timesteps[0]) == 999 and model.sampler(4).v_prediction
    assert "predicts v with zero terminal SNR" in model_taken(model)
    ours = sample(model, model.denoiser, ["a cat"], [1], **LOOK)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, drawn_by_diffusers(model), atol=2e-3, rtol=0)

    state = layout.original(model.base)
    assert {"v_pred", "ztsnr"} <= state.keys() and state.keys() - {"v_pred", "ztsnr"} == layout.original(built(family)).keys()
    again = tmp_path / "again.safetensors"
    save_file(state, again)
    (tmp_path / "again").symlink_to(tmp_path / "model")
    assert dict(models.load(str(again), family).scheduler.config) == dict(config)


def test_v_pred_alone_keeps_the_schedule(tmp_path):
    config = models.load(str(single("sdxl", tmp_path, "v_pred")), "sdxl").scheduler.config
    assert config.prediction_type == "v_prediction" and not config.get("rescale_betas_zero_snr")
    assert config.timestep_spacing == "leading"


@pytest.mark.parametrize(
    ("says", "predicts", "wanted"),
    [
        ({"metadata": {"modelspec.prediction_type": "epsilon"}}, "auto", "-base"),
        ({"metadata": {"modelspec.architecture": "stable-diffusion-v2-768-v"}}, "auto", ""),
        ({"yaml": 'params:\n  parameterization: "v"\n'}, "auto", ""),
        ({"yaml": "params:\n  timesteps: 1000\n"}, "auto", "-base"),
        ({}, "v", ""),
        ({}, "epsilon", "-base"),
        ({}, "auto", None),
    ],
)
def test_stable_diffusion_2_is_told_apart_where_its_file_allows_and_asked_for_otherwise(
    says, predicts, wanted, tmp_path, monkeypatch
):
    """The 512 base models predict ε, those of 768 v: it decides whose configurations are theirs."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = tmp_path / "two.safetensors"
    save_file({V2: torch.zeros(1, 1024)}, file, says.get("metadata"))
    if "yaml" in says:
        file.with_suffix(".yaml").write_text(says["yaml"])
    with pytest.raises(UserError) as error:
        models.load(str(file), "two", predicts=predicts)
    said = str(error.value)
    assert "\n" not in said
    if wanted is None:
        assert "does not say what it predicts: add model.prediction=epsilon" in said and "model.prediction=v" in said
    else:
        assert f"hf download stabilityai/stable-diffusion-2-1{wanted} --include" in said


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"edm_vpred.sigma_max": (1,)}, "is an EDM model"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (4, 9, 1, 1)}, "takes 9 channels: it is an inpainting model"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (4, 8, 1, 1)}, "takes 8 channels: it is an instruct"),
    ],
)
def test_a_file_of_another_kind_is_named(keys, said, tmp_path):
    state = {"model.diffusion_model.out.2.bias": torch.zeros(4)} | {key: torch.zeros(shape) for key, shape in keys.items()}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=said):
        models.load(str(tmp_path / "other.safetensors"), "other")


def test_what_is_asked_for_goes_before_what_a_folder_says_and_is_exported(tmp_path):
    built("sd14").save_pretrained(tmp_path / "model")
    model = models.load(str(tmp_path / "model"), "sd14", predicts="v")
    assert model.sampler(4).v_prediction and model.base.scheduler.config.prediction_type == "v_prediction"
    model.base.save_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    assert saved["prediction_type"] == "v_prediction"
    with pytest.raises(UserError, match="model.prediction=x is unknown: auto, epsilon, v"):
        models.load(str(tmp_path / "nowhere"), "sd14", predicts="x")
    built("sd3").save_pretrained(tmp_path / "sd3")
    with pytest.raises(UserError, match="model.prediction is for Stable Diffusion 1, 2 and XL"):
        models.load(str(tmp_path / "sd3"), "sd3", predicts="v")


@pytest.mark.parametrize(("family", "sampler"), [("sd14", DDIM), ("sdxl", Euler)])
def test_pure_noise_is_no_start_for_a_model_that_predicts_epsilon(family, sampler, tmp_path):
    pipe = built(family)
    pipe.save_pretrained(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}))
    with pytest.raises(UserError, match="begins in pure noise .* model.prediction=v"):
        models.load(str(tmp_path), family).sampler(4)
    assert isinstance(models.load(str(tmp_path), family, predicts="v").sampler(4), sampler)


def test_a_run_says_what_it_has_taken(tmp_path):
    pipe = built("sd21")
    pipe.save_pretrained(tmp_path / "plain")
    assert model_taken(models.load(str(tmp_path / "plain"), "sd21")) == (
        "predicts v, 8×8 pixels, float32, from unet/diffusion_pytorch_model.safetensors, EMA or not is not said"
    )
    pipe.unet.half().save_pretrained(tmp_path / "plain" / "unet", variant="non_ema")
    assert model_taken(models.load(str(tmp_path / "plain"), "sd21")).endswith("model.safetensors, EMA weights")
    (tmp_path / "plain" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert model_taken(models.load(str(tmp_path / "plain"), "sd21")) == (
        "predicts v, 8×8 pixels, float32 (on disk float16), "
        "from unet/diffusion_pytorch_model.non_ema.safetensors, not EMA weights"
    )
    file = single("sd14", tmp_path)
    state = load_file(file)
    assert model_taken(models.load(str(file), "sd14")).endswith("from model.safetensors, EMA or not is not said")
    save_file(state | {"model_ema.decay": torch.ones(())}, file)
    assert model_taken(models.load(str(file), "sd14")).endswith("from model.safetensors, EMA weights")
    save_file(state | {"model_ema.decay": torch.ones(()), "model_ema.diffusion_modelout2bias": torch.ones(4)}, file)
    assert model_taken(models.load(str(file), "sd14")).endswith("not its EMA weights, which it has too")
