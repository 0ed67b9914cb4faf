"""What people have instead of an edit of ours: read where renaming does it, else named; pickles wherever they are allowed."""

import json

import pytest
import torch
from families import built
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file

from esd import UserError, load_edit, models
from esd.command.entry import CONF
from esd.erasing.edit import apply_edit, read_edit
from esd.export import layout
from esd.sample.unlearn import ErasedModel

FAMILIES = ["sd14", "sd21", "sdxl"]


@pytest.fixture
def base(tmp_path):
    built("sd14").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def changed(unet) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() + 1 for name, tensor in unet.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_a_u_net_in_the_original_names_is_the_same_edit(family, prefix, tmp_path):
    unet = built(family).unet
    names, wanted = layout.unet_names(unet), changed(unet)
    save_file({prefix + names[name]: tensor for name, tensor in wanted.items()}, tmp_path / "theirs.safetensors")
    apply_edit(unet, read_edit(tmp_path / "theirs.safetensors"))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in unet.state_dict().items())


def test_some_of_its_tensors_in_the_original_names_and_by_load_edit(tmp_path):
    pipe = built("sd14")
    names, wanted = layout.unet_names(pipe.unet), changed(pipe.unet)
    some = {name: tensor for name, tensor in wanted.items() if ".attn2." in name}
    save_file({f"model.diffusion_model.{names[name]}": tensor for name, tensor in some.items()}, tmp_path / "x.safetensors")
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    load_edit(pipe, tmp_path / "x.safetensors")
    assert all(torch.equal(tensor, some.get(name, before[name])) for name, tensor in pipe.unet.state_dict().items())


@pytest.mark.parametrize(("family", "part"), [("sd14", "unet"), ("sd3", "transformer")])
def test_the_name_of_the_pipelines_part_is_left_out(family, part, tmp_path):
    denoiser = getattr(built(family), part)
    wanted = {name: tensor + 1 for name, tensor in denoiser.named_parameters()}
    save_file({f"{part}.{name}": tensor.detach() for name, tensor in wanted.items()}, tmp_path / "x.safetensors")
    apply_edit(denoiser, read_edit(tmp_path / "x.safetensors"))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in denoiser.named_parameters())


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "is a LoRA .in kohya's names. and no edit"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "is a LoRA"),
        ("lycoris_mid_block_attentions_0_proj_in.lokr_w1", "is a LoRA .in LyCORIS' names"),
        ("base_model.model.mid_block.attentions.0.proj_in.lora_A.weight", "is a LoRA .in PEFT's own names"),
        (
            "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
            "is a LoRA .in an old diffusers'",
        ),
        ("first_stage_model.decoder.conv_in.weight", "is a whole checkpoint"),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "is a whole checkpoint"),
    ],
)
def test_what_is_something_else_is_named(key, said, tmp_path):
    save_file({key: torch.ones(2), "model.diffusion_model.out.2.bias": torch.ones(4)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=said) as error:
        read_edit(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("nested", [False, True])
def test_the_authors_whole_u_net_in_a_pickle_is_evaluated(nested, base, tmp_path, monkeypatch):
    """diffusers-…-UNET.pt, with what was erased said on the command line; also as CompVis' code keeps a state."""
    from esd.evaluate.evaluation import evaluate
    from esd.evaluate.options import build
    from esd.evaluate.variants import variants_of

    state = {
        name: tensor + 0.05 * torch.randn_like(tensor)
        for name, tensor in models.load(str(base), "x").denoiser.state_dict().items()
    }
    file = tmp_path / "diffusers-VanGogh-ESDx1-UNET.pt"
    torch.save({"state_dict": state} if nested else state, file)
    with pytest.raises(UserError, match="allow_pickle=true"):
        variants_of([str(file)], ["Van Gogh"])
    (tmp_path / "prompts.csv").write_text("prompt,evaluation_seed\nvan gogh,1\n")
    monkeypatch.chdir(tmp_path)
    options = ["model=sd14", f"model.path={base}", "protocol=prompts", "protocol.csv=prompts.csv", "sampling_steps=2"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "evaluate", [f"edit={file}", *options, "precision=32-true", "accelerator=cpu", "out=out", "allow_pickle=true"]
        )
    metrics, _ = evaluate(cfg, build(cfg), variants_of([str(file)], ["Van Gogh"], (), cfg.allow_pickle), "typed")
    (result,) = metrics["results"].values()
    assert result["edit"]["pixels"]["mean"] > 0 and result["concept"] == ["Van Gogh"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]


def test_a_pickle_is_sampled_and_benchmarked_where_it_is_allowed(base, tmp_path, esd):
    torch.save(changed(models.load(str(base), "x").denoiser), tmp_path / "unet.pt")
    with pytest.raises(UserError, match="allow_pickle=true"):
        ErasedModel(str(tmp_path / "unet.pt"), str(base))
    ErasedModel(str(tmp_path / "unet.pt"), str(base), allow_pickle=True)
    options = (f"edit={tmp_path}/unet.pt", "prompt=a cat", "count=1", "sampling_steps=2", "model=sd14", f"model.path={base}")
    done = esd("sample", *options, "allow_pickle=true", "hydra.run.dir=out")
    assert done.returncode == 0 and (done.folder / "out" / "grid.png").is_file(), done.stderr
