"""Pictures that are not finite are no pictures: one line names the likely cause, the code is 2, and no file is written."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler
from families import BETAS, sd1
from omegaconf import OmegaConf
from test_configs import composed

from esd import UserError
from esd.models.stable_diffusion import StableDiffusion
from esd.sample.sampling import sample

LOOK = {"steps": 4, "guidance": 3.0}


def with_schedule(**options) -> StableDiffusion:
    torch.manual_seed(0)
    pipe = sd1()
    pipe.scheduler = DDIMScheduler(**BETAS, **options)
    return StableDiffusion(pipe, "sd14")


def test_a_schedule_from_pure_noise_needs_a_model_that_predicts_v():
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with pytest.raises(UserError, match=r"begins in pure noise \(zero SNR.*prediction_type=v_prediction"):
        with_schedule(**zero).sampler(4)
    for fine in ({**zero, "prediction_type": "v_prediction"}, {**zero, "timestep_spacing": "leading"}):
        model = with_schedule(**fine)
        assert sample(model, model.denoiser, ["a"], [0], **LOOK).isfinite().all()


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_picture_that_is_not_finite_names_the_weight(part):
    model = with_schedule()
    weights = getattr(model.base, part).state_dict()
    name = "conv_in.weight" if part == "unet" else "decoder.conv_in.weight"
    weights[name].view(-1)[0] = float("inf")
    what = "the denoiser's conv_in.weight" if part == "unet" else "the VAE's decoder.conv_in.weight"
    with pytest.raises(UserError, match=rf"the picture of 'a' \(noise 7\) is not finite: {what} is not"):
        sample(model, model.denoiser, ["a"], [7], **LOOK)


def test_other_causes_are_named(tiny):
    with pytest.raises(
        UserError, match=r"'a' \(noise 0\) is not finite: what .* predicts is too large: lower guidance \(now 1e\+38"
    ):
        sample(tiny, tiny.denoiser, ["a"], [0], steps=4, guidance=1e38)


def test_at_the_first_step_it_is_the_model_and_not_the_learning_rate(build):
    from esd.erasing.concepts import Concept, Draw

    module, teacher, *_ = build([Concept("pizza", "", 1.0)])
    module._trainer = type("Trainer", (), {"global_step": 0, "log_every_n_steps": 10})()
    teacher.state_dict()["conv_in.weight"].view(-1)[0] = float("nan")
    zeros = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(FloatingPointError, match="at step 0.*nothing is trained yet, so the model itself predicts it"):
        module.training_step(Draw(zeros, zeros, zeros + 2, zeros), 0)


@pytest.mark.parametrize("command", ["train", "sample"])
def test_no_command_writes_black_pictures(faults, server, command):
    cwd = faults.place()
    shutil.copytree(faults.model, cwd / "model")
    config = cwd / "model" / "scheduler" / "scheduler_config.json"
    schedule = json.loads(config.read_text()) | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    straight = faults.straight("student, adam")
    config.write_text(json.dumps(schedule | {"prediction_type": "epsilon"}))
    if command == "train":
        given = [option for option in straight.arguments if not option.startswith("model.path=")]
    else:
        (cwd / "edit.safetensors").write_bytes(straight.edit)
        given = ["edit=edit.safetensors", "prompt=a pizza", "sampling_steps=4"]
    done = server.run(cwd, *given, "model.path=model", command=command)
    assert done["code"] == 2 and "zero SNR" in done["err"] and len(done["err"].strip().splitlines()) == 1
    assert not list(cwd.rglob("*.png"))


def test_a_search_has_something_to_go_by(monkeypatch):
    """A run that is not judged returns NaN, and a search would not know good from bad."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from esd.train import verdict

    def sweeper(name):
        node = OmegaConf.create({"mode": RunMode.MULTIRUN, "sweeper": {"_target_": name}})
        monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: node))

    sweeper("hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper")
    verdict.check_objective(composed(), object.__new__(verdict.emoji.Emoji))
    for judged, said in ((None, "evaluate=false"), ("CLIP cannot be had", "CLIP cannot be had")):
        with pytest.raises(UserError, match=f"a search needs objective=kept-erased of every run.*: {said}"):
            verdict.check_objective(composed(), judged)
    sweeper("hydra._internal.core_plugins.basic_sweeper.BasicSweeper")
    verdict.check_objective(composed(), None)
