"""load_edit beside what else people do to a pipeline: noticed before anything is written, or the right result."""

import warnings

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from families import built, sd1
from peft import LoraConfig
from test_export import made

from esd import UserError, load_edit
from esd.erasing.edit import read_edit, save_edit
from esd.models.hashes import fingerprint, own_weights

PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture
def pipe():
    torch.manual_seed(0)
    return sd1()


@pytest.fixture
def path(pipe, tmp_path):
    save_edit(tmp_path / "0-pizza" / "edit.safetensors", made(pipe.unet))
    return tmp_path / "0-pizza" / "edit.safetensors"


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*(fuse|merge|rounding|adapter).*")  # PEFT's
        yield


def weights(pipe, copies: bool = False):
    return {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items() if copies or "to_kv" not in name}


def own(pipe):
    return {name: tensor.detach() for name, tensor in own_weights(pipe.unet).items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def lora(pipe):
    torch.manual_seed(1)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=PROJECTIONS, init_lora_weights=False))


def answer(pipe):
    torch.manual_seed(2)
    with torch.no_grad():
        return pipe.unet(torch.randn(1, 4, 8, 8), 3, torch.randn(1, 12, 16)).sample


def refused(pipe, path, said, *strengths):
    before = weights(pipe, copies=True)
    for strength in strengths:
        with pytest.raises(UserError, match=said) as caught:
            load_edit(pipe, path, strength)
        assert "\n" not in str(caught.value)
    assert same(before, weights(pipe, copies=True))


@pytest.mark.parametrize("family", ["sd14", "flux"])
def test_fused_projections_are_unfused_first(family, tmp_path):
    """Fused, to_q, to_k and to_v stand where they were and count for nothing."""
    pipe = built(family)
    denoiser = pipe.unet if family == "sd14" else pipe.transformer
    edit = made(denoiser, "esd-x" if family == "sd14" else "full")
    save_edit(tmp_path / "edit.safetensors", edit)
    base = fingerprint(denoiser)
    load_edit(pipe, tmp_path)
    denoiser.fuse_qkv_projections()
    for strength in (0, 0.5):
        with pytest.raises(UserError, match="call unfuse_qkv_projections before load_edit"):
            load_edit(pipe, tmp_path, strength)
    denoiser.unfuse_qkv_projections()
    load_edit(pipe, tmp_path, 0)
    assert fingerprint(denoiser) == base
    load_edit(pipe, tmp_path, strict=True)  # what unfusing leaves behind makes it no other model


def test_a_fused_lora_is_unfused_first(pipe, path):
    base = weights(pipe)
    load_edit(pipe, path)
    lora(pipe)
    pipe.unet.fuse_lora()
    refused(pipe, path, "call unfuse_lora before load_edit", 0, 0.5, 1)
    pipe.unet.unfuse_lora()  # which leaves rounding
    load_edit(pipe, path, 0)
    assert all(torch.equal(own(pipe)[name], base[name]) for name in read_edit(path).tensors)


def test_a_lora_fused_for_good_is_noticed(pipe, path):
    """Fused and its matrices gone: the weights alone tell."""
    load_edit(pipe, path)
    name = next(iter(read_edit(path).tensors))
    with torch.no_grad():
        dict(pipe.unet.named_parameters())[name].mul_(1.01)
    refused(pipe, path, rf"something else has changed the pipeline's weights since the last load_edit \({name}\)", 0, 0.5, 1)


def test_another_edit_on_a_model_that_was_changed_since_says_so(pipe, path, tmp_path):
    save_edit(tmp_path / "other.safetensors", made(pipe.unet, "selfattn"))
    load_edit(pipe, path)
    with torch.no_grad():
        dict(pipe.unet.named_parameters())["conv_in.weight"].add_(1)
    with pytest.raises(UserError, match="has other weights"):
        load_edit(pipe, tmp_path / "other.safetensors", strict=True)


def test_a_lora_beside_an_edit_stays_whole(pipe, path):
    """PEFT renames what it wraps; the edit belongs to what is wrapped, whichever comes first."""
    edit = read_edit(path).tensors
    lora(pipe)
    with_lora = answer(pipe)
    load_edit(pipe, path, strict=True)
    both = answer(pipe)
    assert all(torch.equal(own(pipe)[name], tensor) for name, tensor in edit.items())
    load_edit(pipe, path, 0)
    assert torch.equal(answer(pipe), with_lora) and not torch.equal(both, with_lora)
    torch.manual_seed(0)
    other = sd1()
    load_edit(other, path)
    lora(other)
    assert torch.equal(answer(other), both)


def test_a_compiled_unet_and_a_unet_alone(pipe, path):
    base, edit = weights(pipe), read_edit(path).tensors
    for given, restore in (("compiled", pipe.unet), ("alone", None)):
        if restore is not None:
            pipe.unet = torch.compile(pipe.unet)
        target = pipe if given == "compiled" else pipe.unet
        load_edit(target, path, strict=True)
        if restore is not None:
            pipe.unet = restore
        assert all(torch.equal(weights(pipe)[name], tensor) for name, tensor in edit.items())
        load_edit(pipe, path, 0)
        assert same(weights(pipe), base)
    with pytest.raises(UserError, match="str has no U-Net and no transformer to edit: give a diffusers pipeline"):
        load_edit("a pipeline", path)


def test_a_pipeline_in_inference_mode(path):
    with torch.inference_mode():
        torch.manual_seed(0)
        pipe = sd1()
        base = weights(pipe)
        load_edit(pipe, path)
    load_edit(pipe, path, 0.5)
    with torch.inference_mode():
        load_edit(pipe, path, 0.25)
    load_edit(pipe, path, 0)
    assert same(weights(pipe), base)


@pytest.mark.parametrize("strength", ["1", None, 1.5, -0.1, float("nan"), torch.tensor(1.0)])
def test_a_strength_is_a_number(pipe, path, strength):
    refused(pipe, path, "strength=.* must be a number from 0", strength)


def test_quantized_and_offloaded_weights_are_not_written_to(pipe, path):
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    with pytest.raises(UserError, match="call load_edit before enable_layerwise_casting"):
        load_edit(pipe, path)
    pipe = sd1()
    pipe.unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    refused(pipe, path, "call load_edit before enable_group_offload", 1)
    pipe = sd1()
    pipe.unet.conv_in.weight = torch.nn.Parameter(pipe.unet.conv_in.weight.to(torch.int8), requires_grad=False)
    refused(pipe, path, "weights are quantized", 1)


def test_a_folder_and_its_file_are_one_edit(pipe, path):
    base = weights(pipe)
    load_edit(pipe, path.parent)
    load_edit(pipe, path, 0)
    assert same(weights(pipe), base)


def test_a_file_that_was_written_again_comes_off_whole(pipe, path):
    base = weights(pipe)
    load_edit(pipe, path)
    save_edit(path, made(sd1_again(), "selfattn"))
    load_edit(pipe, path)
    edit = read_edit(path).tensors
    assert all(torch.equal(tensor, edit.get(name, base[name])) for name, tensor in weights(pipe).items())
    load_edit(pipe, path, 0)
    assert same(weights(pipe), base)


def sd1_again():
    torch.manual_seed(0)
    return sd1().unet


def test_an_overlap_names_the_concepts(pipe, path, tmp_path):
    other = made(pipe.unet, seed=1)
    other.record["concept"] = ["cat", "dog"]
    save_edit(tmp_path / "1-cat-dog" / "edit.safetensors", other)
    load_edit(pipe, path)
    with pytest.warns(UserWarning, match=r"^'cat, dog' \(1-cat-dog\) and 'pizza' \(0-pizza\) both change \d+ tensors"):
        load_edit(pipe, tmp_path / "1-cat-dog")


def test_an_ip_adapter_makes_no_other_model(pipe, path):
    """load_ip_adapter() puts matrices of its own into the U-Net, and a projection beside them."""
    before, plain = fingerprint(pipe.unet), own(pipe)
    adapted = IPAdapterAttnProcessor2_0(hidden_size=16, cross_attention_dim=16)
    pipe.unet.set_attn_processor({
        name: adapted if "attn2" in name else AttnProcessor2_0() for name in pipe.unet.attn_processors
    })  # fmt: skip
    pipe.unet.encoder_hid_proj = torch.nn.Linear(4, 16)
    assert any(".to_k_ip." in name for name in pipe.unet.state_dict())
    assert fingerprint(pipe.unet) == before and same(own(pipe), plain)
    load_edit(pipe, path)  # no warning that it was made for another model
