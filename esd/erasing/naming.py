"""The short text of a concept that is given as pictures alone: the word under which the frozen model denoises them best.

A free word vector v is found by textual inversion (Gal et al. 2022, arXiv 2208.01618): min over v of E ‖ε − ε_θ*(x_t, v, t)‖²,
x_t the pictures noised to t. Of the words whose embeddings are nearest to v the text is the one whose own such loss is
lowest, at the same noises and time steps for all.

Only the noisier half of the schedule is asked: there the text decides what a picture is of. Over all of it the loss is mostly
of details, of which some picture that the model draws otherwise than it was given outweighs all others (measured on the
embedded model: a banana's drawings, one of which it was never shown, were denoised better by 880 of 927 words).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from esd import UserError
from esd.erasing.walks import predict, select_rows
from esd.models import text
from esd.models.family import Condition, Model
from esd.models.samplers import Sampler

STEPS, BATCH, LR = 60, 4, 5e-3  # of the inversion: enough to tell near words from far ones, not to draw by
TRIED = ((64, 16), (8, 64))  # how many of the nearest words are tried on how many noised pictures, and the best of these
POSITIONS = 50  # of the schedule
FORWARDS = 3 * STEPS * BATCH + sum(words * examples for words, examples in TRIED)  # in all, a backward pass counted as two


def text_of(
    model: Model, x_0: Tensor, seed: int, leave_out: Collection[str] = (), moved: Callable[[int], None] = lambda n: None
) -> str:
    """One word for these latents (n, C, h, w), on the device that the denoiser is on: a function of them and the seed.

    leave_out: words that it must not be. moved(n) is told of every n of FORWARDS. Raises UserError for a family that reads
    its prompts with two vocabularies.
    """
    try:
        known = [word for word in text.vocabulary(model) if word not in leave_out]
    except UserError as error:
        raise UserError(f"{model.name} reads prompts with two vocabularies: give concept=… beside images=") from error
    sampler = model.sampler(POSITIONS).to(x_0.device)
    tables = text.embeddings(model, known)  # (V, D) for each encoder
    v = inverted(model, sampler, x_0, [table.mean(0) for table in tables], seed, moved)
    near = sum(F.cosine_similarity(table, vector) for table, vector in zip(tables, v, strict=True))  # (V,)
    words = [known[i] for i in near.argsort(descending=True, stable=True).tolist()]
    for count, examples in TRIED:
        words = best_first(model, sampler, x_0, words[:count], examples, seed, moved)
    return words[0]


@torch.enable_grad()
def inverted(
    model: Model, sampler: Sampler, x_0: Tensor, start: list[Tensor], seed: int, moved: Callable[[int], None]
) -> list[Tensor]:
    """v of each text encoder, (1, D), from where it starts (D,)."""
    generator = torch.Generator().manual_seed(seed)
    free = [vector.to(x_0.device)[None, None].clone().requires_grad_() for vector in start]  # (1, 1, D)
    optimizer = torch.optim.Adam(free, LR)
    for _ in range(STEPS):
        condition = text.encode_with(model, "", free)
        rows = torch.zeros(BATCH, dtype=torch.int64, device=x_0.device)
        loss = losses(model, sampler, select_rows(condition, rows), *noised(x_0, BATCH, generator)).mean()
        optimizer.zero_grad()
        loss.backward(inputs=free)
        optimizer.step()
        moved(3 * BATCH)
    return [vector.detach()[0].float().cpu() for vector in free]


@torch.no_grad()
def best_first(
    model: Model, sampler: Sampler, x_0: Tensor, words: list[str], examples: int, seed: int, moved: Callable[[int], None]
) -> list[str]:
    """The words by their loss on so many noised pictures, the same ones for each."""
    drawn = noised(x_0, examples, torch.Generator().manual_seed(seed))
    table, found = model.encode(words, x_0.device), []
    for i in range(len(words)):
        parts = zip(*(tensor.split(BATCH) for tensor in drawn), strict=True)
        of = [losses(model, sampler, select_rows(table, torch.full_like(part[2], i)), *part) for part in parts]
        found.append(torch.cat(of).mean().item())
        moved(examples)
    return [words[i] for i in sorted(range(len(words)), key=found.__getitem__)]


def noised(x_0: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(x_0, noise, position) of n examples, the positions spread evenly over the noisier half of the schedule."""
    picked = torch.randint(len(x_0), (n,), generator=generator)
    noise = torch.randn(n, *x_0.shape[1:], generator=generator)
    position = ((torch.arange(n) + torch.rand(n, generator=generator)) / n * POSITIONS / 2).long()
    return x_0[picked.to(x_0.device)], noise.to(x_0.device), position.to(x_0.device)


def losses(model: Model, sampler: Sampler, condition: Condition, x_0: Tensor, noise: Tensor, position: Tensor) -> Tensor:
    """‖prediction − what a denoiser that knew the picture would predict‖², averaged over each example: (B,)."""
    x_t = sampler.noised(x_0, noise, position)
    (prediction,) = predict(model, model.denoiser, sampler, x_t, position, condition)
    return (prediction - sampler.exact(x_0, noise, position)).square().flatten(1).mean(1)
