"""Pictures from prompts, each from the noise of its own seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from esd.erasing.walks import predict, select_rows, walk
from esd.models.family import Condition, Model
from esd.models.samplers import Sampler
from esd.sample.sld import SafeLatentDiffusion


@torch.inference_mode()
def sample(
    model: Model, denoiser: nn.Module, prompts: Sequence[str], seeds: Sequence[int], *, steps: int,
    guidance: float, negative: str = "", batch: int | None = None, done: Callable[[float], None] = lambda n: None,
    safe: SafeLatentDiffusion | None = None,
) -> Tensor:  # fmt: skip
    """One picture for each (prompt, seed): (n, 3, H, W) in [0, 1], on the CPU. done(n) is told of the steps as they are
    made, in pictures: a step of thirty is a thirtieth of one.

    safe: safe latent diffusion, which guides away from a concept. batch: pictures drawn at once; nothing: as many as suit
    the model's size.
    """
    batch = batch or pictures_at_once(model)
    device = next(denoiser.parameters()).device
    sampler = model.sampler(steps).to(device)
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
        pictures.append(finish(model, denoiser, sampler, x, 0, condition, null, guided, lambda n: done(n / len(sampler))))
    return torch.cat(pictures)  # (n, 3, H, W)


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
