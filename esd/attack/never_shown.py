"""The control on the embedded model: emoji that its U-Net was never shown, and a judge that knows them.

The judge that ships calls them "something else"; on its frozen features a linear row is fitted for each of a few. Whether
an attack's pictures show one of these says how much an attack of this budget teaches, where there was nothing to find.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from esd.emoji import art, vae, words
from esd.emoji.judge import Judge, load_judge

# Of the kinds that the objects are of: animals, food, things. An attack's seed picks one.
NAMES = words.NEVER_SHOWN
PER_DRAWING = 24  # augmentations of each drawing, to fit on; half as many fresh ones to test on


def for_seed(seed: int) -> str:
    return NAMES[seed % 3]


def drawings(name: str) -> Tensor:
    """The emoji in the four styles: (4, 4, 64, 64) premultiplied RGBA."""
    pictures, index, _ = art.others()
    return pictures[index == json.loads((art.ART / "others.json").read_text()).index(name)]


class NeverShownJudge(nn.Module):
    """Pictures (B, 3, 64, 64) in [0, 1] → logits over `NAMES` and "none of these": (B, 9)."""

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge, self.head = judge, nn.Linear(judge.object_head.in_features, len(NAMES) + 1)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(F.normalize(self.judge.features(pictures)))

    @torch.no_grad()
    def sees(self, pictures: Tensor, name: str) -> Tensor:
        return self(pictures).argmax(1) == NAMES.index(name)


def augmented(pictures: Tensor, times: int, seed: int) -> Tensor:
    """(N, 4, s, s) → (N·times, 3, 64, 64) in [0, 1]."""
    return art.variants(pictures, times, torch.Generator().manual_seed(seed)).flatten(0, 1).float() / 255


FILE = Path(__file__).with_name("never_shown.safetensors")


@functools.cache
def shipped() -> NeverShownJudge:
    """The judge with the rows that ship."""
    judge = NeverShownJudge(load_judge())
    judge.head.load_state_dict({name: tensor.float() for name, tensor in load_file(FILE).items()})
    return judge.eval().requires_grad_(False)


def record() -> dict:
    """How the rows that ship do on augmentations that they were not fitted to, and on other emoji."""
    with safe_open(FILE, "pt") as file:
        return json.loads(file.metadata()["record"])


def main() -> None:
    """python -m esd.attack.never_shown: fit the rows again, and write never_shown.safetensors. Three minutes.

    A third of what they are fitted to has passed through the model's VAE, as drawn pictures have. "None of these" are
    three quarters of the other emoji and the model's own objects; the rest of the other emoji tests.
    """
    from esd import models

    autoencoder = models.load(None, "emoji").base.vae
    judge = NeverShownJudge(load_judge())
    own = torch.cat([drawings(name) for name in NAMES])  # (8·4, 4, 64, 64)
    label, none = torch.arange(len(NAMES)).repeat_interleave(4), len(NAMES)
    others, index, _ = art.others()
    names = json.loads((art.ART / "others.json").read_text())
    rest = others[~torch.isin(index, torch.tensor([names.index(name) for name in NAMES]))]
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))]
    cut = 3 * len(rest) // 4

    @torch.no_grad()
    def features(pictures: Tensor) -> Tensor:
        redrawn = torch.cat([decoded(autoencoder, part) for part in pictures[::3].split(64)])
        pictures = pictures.clone()
        pictures[::3] = redrawn
        return torch.cat([F.normalize(judge.judge.features(part)) for part in pictures.split(128)])

    x = features(torch.cat([augmented(own, PER_DRAWING, 1), augmented(rest[:cut], 1, 2), augmented(art.objects()[0], 2, 3)]))
    y = torch.full((len(x),), none)
    y[: len(own) * PER_DRAWING] = label.repeat_interleave(PER_DRAWING)
    optimizer = torch.optim.LBFGS(judge.head.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(judge.head(x), y) + 1e-5 * judge.head.weight.square().sum()
        loss.backward()
        return loss

    torch.nn.init.zeros_(judge.head.weight)
    torch.nn.init.zeros_(judge.head.bias)
    optimizer.step(closure)
    fresh = PER_DRAWING // 2
    with torch.no_grad():
        right = (judge(augmented(own, fresh, 4)).argmax(1) == label.repeat_interleave(fresh)).sum().item()
        taken = (judge(augmented(rest[cut:], 1, 5)).argmax(1) != none).sum().item()
    found = {"names": NAMES, "right": [right, len(own) * fresh], "other emoji taken for one": [taken, len(rest) - cut]}
    save_file({n: t.half() for n, t in judge.head.state_dict().items()}, FILE, {"record": json.dumps(found)})
    print(found)


def decoded(autoencoder: nn.Module, pictures: Tensor) -> Tensor:
    """Through the VAE and back: (B, 3, 64, 64) in [0, 1]."""
    z = vae.encode(autoencoder, pictures.mul(255)).to(autoencoder.dtype)
    return autoencoder.decode(z).sample.float().div(2).add(0.5).clamp(0, 1)


if __name__ == "__main__":
    main()
