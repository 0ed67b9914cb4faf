"""Each sampler against the diffusers scheduler it computes, one latent at a time, over the schedules that models ship with."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from esd import UserError
from esd.erasing.walks import walk
from esd.models.samplers import DDIM, DPMSolver, Euler, Flow

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DDIMS = [
    {"steps_offset": 1, "set_alpha_to_one": False},  # Stable Diffusion 1
    {"steps_offset": 1, "set_alpha_to_one": False, "prediction_type": "v_prediction"},  # 2.1
    {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"timestep_spacing": "linspace", "set_alpha_to_one": True},
]
SOLVERS = [
    {"timestep_spacing": "trailing", "steps_offset": 1},  # as the embedded model's pictures are drawn
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "linspace", "prediction_type": "v_prediction"},
    {"timestep_spacing": "leading", "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
]
EULERS = [
    {"timestep_spacing": "leading", "steps_offset": 1},  # SDXL
    {"timestep_spacing": "trailing"},  # its fast descendants
    {"timestep_spacing": "linspace", "prediction_type": "v_prediction"},
    {"timestep_spacing": "leading", "steps_offset": 1, "use_karras_sigmas": True},
]
FLOWS = [
    ({"shift": 3.0}, {}),  # SD3
    ({"shift": 1.0, "use_dynamic_shifting": True}, {"mu": 0.7}),
    ({"shift": 1.0}, {"sigmas": "unit"}),  # FLUX
]


def agree(ours, theirs, steps):
    """From noise to picture by both, from the same predictions."""
    torch.manual_seed(steps)
    assert len(ours) == steps
    predictions, noise = torch.randn(steps, 4, 8, 8), torch.randn(1, 4, 8, 8)
    x = ours.start(noise)
    torch.testing.assert_close(x, noise * getattr(theirs, "init_noise_sigma", 1.0))
    before, given, after = [], [], []
    for t, prediction in zip(theirs.timesteps, predictions, strict=True):
        before.append(x)
        given.append(theirs.scale_model_input(x, t) if hasattr(theirs, "scale_model_input") else x)
        x = theirs.step(prediction[None], t, x).prev_sample
        after.append(x)
    shuffled = torch.randperm(steps)  # every latent at a position of its own, in any order
    before, given, after = (torch.cat(parts)[shuffled] for parts in (before, given, after))
    assert torch.equal(ours.timesteps, theirs.timesteps)
    torch.testing.assert_close(ours.scaled(before, shuffled), given, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.step(before, predictions[shuffled], shuffled), after, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("options", DDIMS)
def test_ddim(options, steps):
    theirs = DDIMScheduler(clip_sample=False, **BETAS, **options)
    ours = DDIM(theirs, steps)
    theirs.set_timesteps(steps)
    agree(ours, theirs, steps)


@pytest.mark.parametrize("steps", [1, 2, 10, 25])
@pytest.mark.parametrize("options", SOLVERS)
def test_dpm_solver_walks_as_diffusers_does(options, steps):
    """A whole walk, each latent from a place of its own in the batch: three begin together, and one joins five steps later,
    which has no stop before it."""
    theirs = DPMSolverMultistepScheduler(**BETAS, **options)
    ours = DPMSolver(theirs, steps)
    torch.manual_seed(steps)
    noise, weight = torch.randn(4, 4, 8, 8), torch.rand(4, 8, 8)

    class Model:
        def predict(self, denoiser, x, t, condition):
            return torch.tanh(x * weight + t.view(-1, 1, 1, 1) / 1000)

    late = min(5, steps - 1)
    start = torch.tensor([0, 0, 0, late])
    null = {"prompt": torch.zeros(4, 1)}
    found = walk(Model(), None, ours, ours.start(noise), start, torch.full((4,), steps), null, null, 1.0)
    for i, first in enumerate(start.tolist()):
        theirs.set_timesteps(steps)
        theirs.set_begin_index(first)
        x = noise[i : i + 1]
        for t in theirs.timesteps[first:]:
            x = theirs.step(Model().predict(None, x, t, None), t, x).prev_sample
        torch.testing.assert_close(found[i : i + 1], x, atol=1e-5, rtol=1e-5)
    assert torch.equal(ours.timesteps, theirs.timesteps) and found.isfinite().all()


@pytest.mark.parametrize("options", SOLVERS[:3])
def test_dpm_solver_knows_how_noisy_its_latents_are(options):
    sampler = DPMSolver(DPMSolverMultistepScheduler(**BETAS, **options), 10)
    x_0, noise, at = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 4, 9])
    x = sampler.noised(x_0, noise, at)
    torch.testing.assert_close(sampler.denoised(x, sampler.exact(x_0, noise, at), at), x_0, atol=1e-4, rtol=1e-4)
    assert (sampler.snr(at).diff() > 0).all() and torch.equal(sampler.scaled(x, at), x)


@pytest.mark.parametrize("steps", [2, 7, 50])
@pytest.mark.parametrize("options", EULERS)
def test_euler(options, steps):
    theirs = EulerDiscreteScheduler(**BETAS, **options)
    ours = Euler(theirs, steps)
    theirs.set_timesteps(steps)
    agree(ours, theirs, steps)


@pytest.mark.parametrize("steps", [1, 7, 28])
@pytest.mark.parametrize(("options", "schedule"), FLOWS)
def test_flow(options, schedule, steps):
    schedule = {**schedule, **({"sigmas": torch.linspace(1, 1 / steps, steps).numpy()} if "sigmas" in schedule else {})}
    theirs = FlowMatchEulerDiscreteScheduler(**options)
    ours = Flow(theirs, steps, **schedule)
    theirs.set_timesteps(steps, **schedule)
    agree(ours, theirs, steps)


@pytest.mark.parametrize("options", DDIMS[:3])  # linspace's steps do not add up: diffusers steps by another length
def test_ddim_in_strides(options):
    """Four of eight positions at once are a step of diffusers' scheduler for two."""
    theirs = DDIMScheduler(clip_sample=False, **BETAS, **options)
    ours = DDIM(theirs, 8)
    theirs.set_timesteps(8)
    theirs.num_inference_steps = 2
    x, prediction, at = torch.randn(5, 4, 8, 8), torch.randn(5, 4, 8, 8), torch.arange(5)
    after = [theirs.step(prediction[i], theirs.timesteps[i], x[i]).prev_sample for i in at]
    torch.testing.assert_close(ours.step(x, prediction, at, at + 4), torch.stack(after), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(DDIMScheduler(**BETAS, **DDIMS[0]), 12),
        Euler(EulerDiscreteScheduler(**BETAS, **EULERS[0]), 12),
        Flow(FlowMatchEulerDiscreteScheduler(shift=3.0), 12),
    ],
)
def test_a_stride_is_its_steps_while_the_prediction_stays(sampler):
    x, prediction, at = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 2, 8])
    by_steps = x
    for further in range(4):
        by_steps = sampler.step(by_steps, prediction, at + further)
    torch.testing.assert_close(sampler.step(x, prediction, at, at + 4), by_steps, atol=1e-4, rtol=1e-4)


def test_sdxls_denoiser_is_given_latents_of_unit_size():
    """Unscaled they would be 13 times too large."""
    sampler = Euler(EulerDiscreteScheduler(**BETAS, **EULERS[0]), 50)
    x = sampler.start(torch.randn(1, 4, 64, 64))
    assert 10 < x.std() < 15 and 0.9 < sampler.scaled(x, torch.tensor([0])).std() < 1.1


def test_a_schedule_as_long_as_the_training_is_refused():
    """With steps_offset=1 it would begin at time step 1000 of 0 to 999."""
    with pytest.raises(UserError, match="sampling_steps=1000 must be from 1 to 999"):
        DDIM(DDIMScheduler(**BETAS, **DDIMS[0]), 1000)
