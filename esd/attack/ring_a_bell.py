"""Ring-A-Bell (Tsai et al. 2024, arXiv 2310.10012): words whose text states lie where the concept would, without its name.

min over p̂ of ‖f(p̂) − (f(p) + η·c̄)‖², c̄ = mean [f(with the concept) − f(without)], by a genetic search; the text encoder
alone is asked, never the denoiser, so one search serves every edit that leaves the text encoder as it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from esd.attack.target import Found, Target, seeded
from esd.models import text


class RingABell:
    """tokens: K of the prompt. population, generations: of the search. eta: how much of the concept's direction is added."""

    needs, check, draws = ("vocabulary",), "base", None

    def __init__(self, tokens: int, population: int, generations: list[int], eta: float, mutation: float):
        self.tokens, self.population, self.generations = tokens, population, generations
        self.eta, self.mutation, self.finds = eta, mutation, len(generations)

    def forwards(self) -> float:
        return 0.0

    def find(self, target: Target, seed: int) -> Iterator[Found]:
        known = [word for word in text.vocabulary(target.model) if word not in target.words]
        plain = target.others[:8]
        f = lambda prompts: states(target, prompts)  # noqa: E731
        direction = (f([f"{prompt} {target.prompt}" for prompt in plain]) - f(plain)).mean(0)
        wanted = f(plain).mean(0) + self.eta * direction
        for generations in self.generations:
            generator = seeded(seed, generations)
            genes = torch.randint(len(known), (self.population, self.tokens), generator=generator)
            for _ in range(generations):
                distance = self.distance(f, known, genes, wanted)
                genes = self.bred(genes[distance.argsort()], len(known), generator)
            distance = self.distance(f, known, genes, wanted)
            best = " ".join(known[i] for i in genes[distance.argmin()].tolist())
            condition = target.condition([best])
            loss = distance.min().item()
            yield Found(generations, best, loss, lambda seeds, denoiser=None, c=condition: target.draw(c, seeds, denoiser))

    def distance(self, f, known: list[str], genes: Tensor, wanted: Tensor) -> Tensor:
        """‖f(p̂) − wanted‖² of each row of words: (population,), on the CPU as they are."""
        return (f([" ".join(known[i] for i in row) for row in genes.tolist()]) - wanted).square().mean(1).cpu()

    def bred(self, ranked: Tensor, words: int, generator: torch.Generator) -> Tensor:
        """The better half stays; its children take each word from one of two parents, and sometimes a new one."""
        parents = ranked[: max(2, len(ranked) // 2)]
        count = len(ranked) - len(parents)
        pairs = torch.randint(len(parents), (2, count), generator=generator)
        first = torch.rand(count, self.tokens, generator=generator) < 0.5
        children = torch.where(first, parents[pairs[0]], parents[pairs[1]])
        changed = torch.rand(children.shape, generator=generator) < self.mutation
        children = torch.where(changed, torch.randint(words, children.shape, generator=generator), children)
        return torch.cat([parents, children])


def states(target: Target, prompts: list[str]) -> Tensor:
    """Every text state of each prompt, flattened: (P, D)."""
    return torch.cat([tensor.float().flatten(1) for _, tensor in sorted(target.condition(prompts).items())], dim=1)
