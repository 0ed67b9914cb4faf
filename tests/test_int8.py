"""model.quantize=int8: frozen weights in 8 bits under a LoRA. The refusals run everywhere, the rest where torchao is."""

import importlib.util

import pytest
import torch
from families import built
from hydra import compose, initialize_config_dir
from test_lora import erasing, train

import esd.train.options  # noqa: F401  (registers the options' types)
from esd import UserError
from esd.command.entry import CONF
from esd.models import precision
from esd.models.hashes import fingerprint
from esd.train.options import check_train_options


def refused(*options) -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["concept=pizza", *options])
    with pytest.raises(UserError) as error:
        check_train_options(cfg)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_had_is_refused_in_one_line(monkeypatch):
    assert "model.quantize=int4 is unknown: int8" in refused("model.quantize=int4", "lora.rank=4")
    assert "give lora.rank=16 beside it" in refused("model.quantize=int8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "needs torchao: pip install 'erased-diffusion[int8]'" in refused("model.quantize=int8", "lora.rank=4")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["lora.rank=0"], "lora.rank=0 must be a whole number, 1 or more"),
        (["lora.rank=-4"], "lora.rank=-4 must be a whole number, 1 or more"),
        (["lora.alpha=8"], "lora.alpha=8 must be above 0, and beside it a rank"),
        (["lora.rank=4", "lora.alpha=0"], "lora.alpha=0 must be above 0"),
        (["model.dtype=int4"], "model.dtype=int4 is unknown: auto, bf16, fp16, fp32"),
    ],
)
def test_a_wrong_lora_or_precision_is_refused_in_one_line(options, said):
    assert said in refused(*options)


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_frozen_weights_of_8_bits_are_shared_and_train_a_lora(family, tmp_path):
    pytest.importorskip("torchao")
    built(family).to(torch.bfloat16).save_pretrained(tmp_path)
    module, teacher, student, _ = erasing(tmp_path, family, "auto", rank=4)
    condition = module.prompts.condition(torch.tensor([1]))

    def said(net):
        return module.model.predict(net, module.model.noise([0]), module.sampler.timesteps[[3]], condition)

    with torch.no_grad():
        before = said(teacher)
        precision.quantize(teacher, student)
        after, ours = said(teacher), said(student)
    assert torch.equal(after, ours) and 0 < (after - before).norm() < 0.05 * before.norm()
    linear = {name: part for name, part in teacher.named_modules() if isinstance(part, torch.nn.Linear)}
    for name, part in linear.items():
        own = student.get_submodule(name)
        assert part.weight.qdata.dtype == torch.int8 and getattr(own, "base_layer", own).weight is part.weight
    kept = {name: part.weight.qdata.clone() for name, part in linear.items()}
    start, whole = {name: t.clone() for name, t in module.trained_tensors().items()}, fingerprint(teacher)
    train(module, precision="bf16-mixed")
    assert all(torch.equal(part.weight.qdata, kept[name]) for name, part in linear.items())
    moved = [name for name, tensor in module.trained_tensors().items() if not torch.equal(tensor, start[name])]
    assert len(moved) >= 0.8 * len(start) and fingerprint(teacher) == whole
