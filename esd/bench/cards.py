"""python -m esd.bench.cards: which model with which option fits which graphics card, by count. Ten minutes of one core.

To what esd.bench.memory_table counts (weights, gradients, Adam's state) this adds the most that is held beside it at batch 1:
in the forward and backward pass of the student, in the frozen model's two predictions at once, or in decoding the pictures that
are drawn together. The full-size configurations compute on tensors without content (torch's FakeTensorMode), in autocast's
bfloat16, as the processor's kernels keep and free memory: no card was measured. Leaves outputs/gallery/cards.json.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from esd.bench.memory import Held
from esd.bench.memory_table import DENOISERS, ENCODERS, GB, RANK, Case, counted, networks
from esd.command.entry import ArgumentParser

CARDS = (8, 12, 16, 24, 48, 80)  # GB
SPARE = 1.0  # GB: CUDA's own, and what an allocator cannot give out again
MODELS = ("SD 1.4", "SDXL", "SD 3.5 medium", "FLUX.1 dev")
WAYS = ((None, False), (RANK, False), (RANK, True))  # rank, and whether what is frozen is int8
INPUTS: dict[str, Callable[[int], tuple[list[Tensor], dict]]] = {  # of n latents: what the denoiser is called with
    "SD 1.4": lambda n: ([torch.randn(n, 4, 64, 64), torch.ones(n), torch.randn(n, 77, 768)], {}),
    "SDXL": lambda n: (
        [torch.randn(n, 4, 128, 128), torch.ones(n), torch.randn(n, 77, 2048)],
        {"added_cond_kwargs": {"text_embeds": torch.randn(n, 1280), "time_ids": torch.randn(n, 6)}},
    ),
    "SD 3.5 medium": lambda n: (
        [torch.randn(n, 16, 128, 128), torch.randn(n, 333, 4096), torch.randn(n, 2048), torch.ones(n)], {},
    ),
    "FLUX.1 dev": lambda n: (
        [torch.randn(n, 4096, 64), torch.randn(n, 512, 4096), torch.randn(n, 768), torch.ones(n), torch.zeros(4096, 3),
         torch.zeros(512, 3), torch.ones(n)], {},
    ),
}  # fmt: skip
TEXT = (
    "The smallest card, of 8, 12, 16, 24, 48 and 80 GB, that holds a run at batch 1, counted and not measured on a card: GB "
    "(10⁹ bytes) of weights, gradients and Adam's state; the most that a step holds beside these; the same with "
    "`gradient_checkpointing=true`; what decoding the pictures of a grid takes, the VAE in it (`grid=0 evaluate=false` "
    "draws none); and the text encoders, which come before the rest and go. 16 bits are `model.dtype=bf16`. The card holds "
    f"the first and the greatest of the next three, or the encoders, and {SPARE:g} GB to spare."
)


@torch.no_grad()
def without_content(module: nn.Module) -> None:
    """Its parameters and buffers become the processor's, in the present FakeTensorMode: nothing is allocated."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                part._parameters[name] = nn.Parameter(empty, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")


def beside(model: str, student: nn.Module, checkpointing: bool) -> int:
    """Bytes at most beside weights and optimiser, in the student's passes, gradients in it, or in two predictions at once."""
    if checkpointing:
        student.enable_gradient_checkpointing()
    with FakeTensorMode(allow_non_fake_inputs=True):
        without_content(student)
        (pair, more_of_two), (one, more) = (INPUTS[model](n) for n in (2, 1))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Held() as walking:
            student(*pair, **more_of_two, return_dict=False)
        with Held() as training:
            with torch.autocast("cpu", torch.bfloat16):
                loss = student(*one, **more, return_dict=False)[0].float().square().mean()
            loss.backward()
    return max(walking.most, training.most)


def decoding(model: str) -> int:
    """Bytes at most of decoding as many pictures as are drawn at once, in float32, the VAE in it."""
    with torch.device("meta"):
        vae = AutoencoderKL(
            latent_channels=4 if model in ("SD 1.4", "SDXL") else 16, block_out_channels=(128, 256, 512, 512),
            layers_per_block=2, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    n, side = (4, 64) if model == "SD 1.4" else (1, 128)
    with FakeTensorMode(allow_non_fake_inputs=True):
        without_content(vae)
        x = torch.randn(n, vae.config.latent_channels, side, side)
        with torch.no_grad(), Held() as held:
            vae.decode(x)
    return held.most + sum(4 * p.numel() for p in vae.parameters())


def made(case: Case) -> nn.Module:
    """The teacher, on the meta device."""
    with torch.device("meta"):
        return DENOISERS[case.model]()


def encoding(model: str) -> int:
    """Bytes of the text encoders in 16 bits, which have the card to themselves while the prompts are encoded."""
    with torch.device("meta"):
        return 2 * sum(p.numel() for make in ENCODERS[model] for p in make().parameters())


def card_for(size: float) -> str:
    """The smallest card that holds so many bytes, and what is spared."""
    return next((f"{card} GB" for card in CARDS if size / GB + SPARE <= card), "none")


def rows() -> list[list[str]]:
    found = []
    for model in MODELS:
        drawn, encoded, kept = decoding(model), encoding(model), {}
        for rank, quantize in WAYS:
            if quantize and importlib.util.find_spec("torchao") is None:
                continue
            case = Case(model, rank, quantize)
            if not quantize:  # what passes between int8 weights is as large
                kept[rank] = [beside(model, networks(made(case), case), checkpointing) for checkpointing in (False, True)]
            bytes_of = counted(made(case), case)
            still = bytes_of["together"] - bytes_of["gradients"]  # which a step's own count has
            peaks = [max(bytes_of["together"], still + step) for step in kept[rank]]
            plain, cheap, grids = (*(max(peak, encoded) for peak in peaks), bytes_of["together"] + drawn)
            found.append(
                [model, case.option, f"{bytes_of['together'] / GB:.1f}", *(f"{step / GB:.1f}" for step in kept[rank]),
                 f"{drawn / GB:.1f}", f"{encoded / GB:.1f}",
                 card_for(max(plain, grids)), card_for(max(cheap, grids)), card_for(cheap)]
            )  # fmt: skip
    return found


def main() -> None:
    ArgumentParser(prog="python -m esd.bench.cards", description=__doc__).parse_args()
    from esd.bench.quality_tables import markdown
    from esd.report.result import write_result

    notes = ["No card was at hand: all of it is counted."]
    if importlib.util.find_spec("torchao") is None:
        notes.append("The rows of int8 are missing: it needs torchao (extra: int8), which was not installed.")
    columns = [
        "model", "trained, and frozen in", "weights and Adam", "a step", "checkpointed", "decoding", "encoders",
        "card", "card, checkpointed", "card, checkpointed, no pictures",
    ]  # fmt: skip
    lines = rows()
    for line in markdown(columns, lines):
        print(line)
    write_result(
        "cards", title="Which model fits which card", text=TEXT, columns=columns, rows=lines,
        notes=notes, command="python -m esd.bench.cards", weights="none: configurations alone",
        makers=["esd/bench/cards.py", "esd/bench/memory_table.py", "esd/bench/memory.py"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
