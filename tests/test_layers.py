"""Which weights each rule names: exact on the full-size Stable Diffusion 1.4 and XL, and meaning the same on transformers."""

import pytest
import torch
from families import built

from esd import UserError
from esd.erasing.layers import select_parameters, student_of
from esd.erasing.layers import shipped_rule as rule
from esd.models.sizes import sd14_unet, sdxl_unet

SD14_TABLE = {  # rule: tensors, parameters (DESIGN.md, section 2)
    "esd-x": (80, 43_962_560), "esd-x-strict": (32, 19_169_280), "esd-u": (388, 815_358_084), "noxattn": (598, 813_495_680),
    "selfattn": (80, 49_574_080), "esd-all": (468, 859_320_644), "full": (686, 859_520_964), "notime": (678, 857_458_240),
    "xlayer": (10, 3_605_760), "selflayer": (10, 8_193_920),
}  # fmt: skip
SDXL_TABLE = {
    "esd-x": (350, 545_670_400), "esd-x-strict": (140, 340_787_200), "esd-u": (818, 2_021_205_124),
    "noxattn": (1322, 2_019_730_560), "selfattn": (350, 409_683_200), "esd-all": (1168, 2_566_875_524),
    "full": (1680, 2_567_463_684), "notime": (1672, 2_565_400_960),
}  # fmt: skip


def counts(denoiser, name: str) -> tuple[int, int]:
    parameters = dict(denoiser.named_parameters())
    names = select_parameters(denoiser, rule(name))
    return len(names), sum(parameters[n].numel() for n in names)


@pytest.fixture(scope="module", params=["sd14", "sdxl"])
def full_size(request):
    with torch.device("meta"):
        return request.param, {"sd14": sd14_unet, "sdxl": sdxl_unet}[request.param]()


@pytest.mark.parametrize("name", SD14_TABLE)
def test_the_full_size_unets_are_the_tables(full_size, name):
    family, unet = full_size
    table = SD14_TABLE if family == "sd14" else SDXL_TABLE
    if name in table:
        assert counts(unet, name) == table[name]
    else:  # xlayer and selflayer are places in Stable Diffusion 1; in XL the one has no attention, the other's is elsewhere
        assert name in ("xlayer", "selflayer")


def test_sdxls_attention_to_the_text_by_hand():
    """10 blocks of width 640 and 60 of 1280, each with q and out (d²), k and v (2048·d) and one bias (d)."""
    assert SDXL_TABLE["esd-x"][1] == sum(n * (2 * d * d + 2 * 2048 * d + d) for n, d in ((10, 640), (60, 1280)))


def test_esd_x_of_stable_diffusion_shares_606_of_686_tensors():
    with torch.device("meta"):
        unet = sd14_unet()
    student = student_of(unet, select_parameters(unet, rule("esd-x")))
    own = {id(p) for p in unet.parameters()}
    assert sum(id(p) in own for p in student.parameters()) == 606


@pytest.fixture(scope="module", params=["sd14", "sd21", "sdxl", "sd3", "flux"])
def denoiser(request):
    base = built(request.param)
    return base.unet if hasattr(base, "unet") else base.transformer


def test_what_attends_to_the_text_and_the_rest_are_the_whole(denoiser):
    x, u, every = (set(select_parameters(denoiser, rule(name))) for name in ("esd-x", "esd-u", "esd-all"))
    assert not x & u and x | u == every
    assert set(select_parameters(denoiser, rule("esd-x-strict"))) < x


def test_a_transformers_attention_is_shared_by_picture_and_text():
    sd3, flux = built("sd3").transformer, built("flux").transformer
    names = select_parameters(sd3, rule("esd-x"))
    assert "transformer_blocks.0.attn.add_k_proj.weight" in names and "transformer_blocks.0.attn.to_k.weight" in names
    assert not any(".attn2." in name for name in names)  # 3.5's second attention sees the picture only
    assert all(".attn2." in name for name in select_parameters(sd3, rule("selfattn")))
    assert any(
        name.startswith("single_transformer_blocks.0.attn.to_v") for name in select_parameters(flux, rule("esd-x-strict"))
    )
    late = select_parameters(flux, rule("notime"))
    assert "single_transformer_blocks.0.proj_out.weight" in late and "proj_out.weight" not in late


@pytest.mark.parametrize("name", ["selfattn", "noxattn", "xlayer", "selflayer"])
def test_a_rule_that_means_nothing_to_a_model_is_refused(name):
    with pytest.raises(UserError, match=f"layers={name} matches no weight of FluxTransformer2DModel"):
        select_parameters(built("flux").transformer, rule(name))
