"""The memory table counts what training holds: by hand on Stable Diffusion 1.4's size, and on every family's classes."""

import pytest
import torch
from families import built
from test_layers import SD14_TABLE

from esd.bench import memory_table
from esd.bench.memory_table import CASES, DENOISERS, RANK, Case, counted, rows


def vectors(denoiser) -> int:
    return sum(p.numel() for p in denoiser.parameters() if p.dim() < 2)


def test_sd14_by_hand_and_within_its_bar():
    (row,) = rows(CASES[:1])
    with torch.device("meta"):
        unet = DENOISERS["SD 1.4"]()
    tensors, trained = SD14_TABLE["esd-x"]
    assert row["bytes"]["frozen"] == 2 * row["parameters"] + 2 * vectors(unet)  # a vector is float32
    assert row["bytes"]["trained"] == row["bytes"]["gradients"] == 4 * trained
    assert row["bytes"]["optimiser"] == 8 * trained + 4 * tensors
    assert row["bytes"]["together"] <= 2.6e9 and row["holds"] is True
    assert rows((CASES[0]._replace(bar=2.0),))[0]["holds"] is False


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
@pytest.mark.parametrize("quantize", [False, True])
def test_a_lora_on_frozen_weights(family, quantize):
    if quantize:
        pytest.importorskip("torchao")
    base = built(family)
    denoiser = getattr(base, "unet", None) or base.transformer
    linear = [part for part in denoiser.modules() if isinstance(part, torch.nn.Linear)]
    matrices = sum(p.numel() for p in denoiser.parameters()) - vectors(denoiser)
    buffers = sum(b.numel() * (2 if b.is_floating_point() else b.element_size()) for b in denoiser.buffers())
    expected = 2 * matrices + 4 * vectors(denoiser) + buffers
    if quantize:  # a byte less for each weight; a scale (and torchao's zero point of one byte) for each row
        expected += sum(5 * part.out_features - part.weight.numel() for part in linear)
    found = counted(denoiser, Case(family, 4, quantize))
    assert found["frozen"] == expected
    assert 0 < found["trained"] == found["gradients"] < found["optimiser"] <= 2.2 * found["trained"]
    assert found["together"] == sum(found[part] for part in ("frozen", "trained", "gradients", "optimiser"))


@pytest.mark.slow
def test_every_bar_holds():
    found = rows(CASES)
    assert len(found) == len(CASES) if memory_table.importlib.util.find_spec("torchao") else len(found) == len(CASES) - 2
    assert all(row["holds"] is not False for row in found) and all(case.rank in (None, RANK) for case in CASES)
    sizes = {row["model"]: row["parameters"] for row in found}  # as published
    assert sizes["FLUX.1 dev"] == 11_901_408_320 and sizes["SD 1.4"] == 859_520_964 and sizes["SDXL"] == 2_567_463_684
