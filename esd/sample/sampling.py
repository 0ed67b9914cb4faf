"""Pictures from prompts, each from the noise of its own seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from esd import UserError
from esd.erasing.checks import require_one_of
from esd.erasing.walks import predict, select_rows, walk
from esd.models import SAMPLERS
from esd.models.family import Condition, Model
from esd.models.samplers import Sampler
from esd.sample.sld import SafeLatentDiffusion


@torch.inference_mode()
def sample(
    model: Model, denoiser: nn.Module, prompts: Sequence[str], seeds: Sequence[int], *, steps: int,
    guidance: float, negative: str = "", batch: int | None = None, done: Callable[[float], None] = lambda n: None,
    safe: SafeLatentDiffusion | None = None, sampler: str = "own",
) -> Tensor:  # fmt: skip
    """One picture for each (prompt, seed): (n, 3, H, W) in [0, 1], on the CPU. done(n) is told of the steps as they are
    made, in pictures: a step of thirty is a thirtieth of one.

    sampler: own or dpm (sampler_of). safe: safe latent diffusion, which guides away from a concept. batch: pictures drawn at
    once; nothing: as many as suit the model's size. Raises UserError for a picture that is not finite, with the likely cause.
    """
    batch = batch or pictures_at_once(model)
    device = next(denoiser.parameters()).device
    sampler = sampler_of(model, steps, sampler).to(device)
    unique = {prompt: row for row, prompt in enumerate(dict.fromkeys([negative, *prompts, *([safe.concept] if safe else [])]))}
    table = {name: tensor.to(device) for name, tensor in model.encode(list(unique), device).items()}
    rows = torch.tensor([unique[prompt] for prompt in prompts])
    pictures = []
    for part, its_seeds in zip(rows.split(batch), torch.tensor(seeds).split(batch), strict=True):
        x = sampler.start(model.noise(its_seeds).to(device))  # (b, C, h, w)
        condition, null = select_rows(table, part), select_rows(table, torch.zeros_like(part))
        guided = guidance
        if safe:
            its = select_rows(table, torch.full_like(part, unique[safe.concept]))

            def of_concept(rows: Tensor, x: Tensor, position: Tensor, its: Condition = its) -> Tensor:
                return predict(model, denoiser, sampler, x, position, select_rows(its, rows))[0]

            guided = safe.guidance(of_concept, guidance, len(sampler))
        drawn = finish(model, denoiser, sampler, x, 0, condition, null, guided, lambda n: done(n / len(sampler)))
        for prompt, seed, picture in zip(part.tolist(), its_seeds.tolist(), drawn, strict=True):
            if not picture.isfinite().all():
                said = f"the picture of '{list(unique)[prompt]}' (noise {seed}) is not finite"
                raise UserError(f"{said}: {why_not_finite(model, denoiser, guidance)}")
        pictures.append(drawn)
    return torch.cat(pictures)  # (n, 3, H, W)


def sampler_of(model: Model, steps: int, kind: str) -> Sampler:
    """What a picture is drawn with: "own", the sampler of the model's family; "dpm", DPM-Solver++ of second order, where the
    family has it. Raises UserError where it has not."""
    require_one_of(kind, "sampler", SAMPLERS)
    if kind == "own":
        return model.sampler(steps)
    if not hasattr(model, "solver"):
        raise UserError(f"sampler={kind} is for Stable Diffusion 1 and 2: of {model.name}'s family there is sampler=own")
    return model.solver(steps)


def why_not_finite(model: Model, denoiser: nn.Module, guidance: float) -> str:
    """The likely cause of a picture that is not finite, from the weights that made it."""
    for part, what in ((model.base.vae, "the VAE"), (denoiser, "the denoiser")):
        plain = {name: weight for name, weight in part.named_parameters() if type(weight.data) is Tensor}  # not quantized
        if broken := next((name for name, weight in plain.items() if not weight.isfinite().all()), None):
            return f"{what}'s {broken} is not; download the model, or make the edit, again"
    kinds = {weight.dtype for weight in denoiser.parameters()}
    if torch.float16 in kinds:
        return "the denoiser overflows in half precision, give model.dtype=fp32"
    return f"what the denoiser predicts is too large: lower guidance (now {guidance:g}), or the edit's strength"


def pictures_at_once(model: Model) -> int:
    """As many as have the size of four of Stable Diffusion 1's together."""
    return max(1, 4 * 64 * 64 // (model.latent_shape[-1] * model.latent_shape[-2]))


@torch.inference_mode()
def finish(
    model: Model, denoiser: nn.Module, sampler: Sampler, x: Tensor, position: int, condition: Condition, null: Condition,
    guidance: float | Callable, moved: Callable[[int], None] = lambda n: None,
) -> Tensor:  # fmt: skip
    """Latents (B, C, h, w) that stand at this position, walked to the end and decoded: (B, 3, H, W) in [0, 1], on the CPU.

    moved(n) is told of every n latents that came a position further.
    """
    start = torch.full((len(x),), position, device=x.device)
    stop = torch.full_like(start, len(sampler))
    return model.decode(walk(model, denoiser, sampler, x, start, stop, condition, null, guidance, moved=moved)).cpu()
