"""A command starts without what it has no use for, and a package that was left for later is whole once it is asked for."""

import subprocess
import sys

import pytest
from tiny import ROOT

UNUSED = (
    "torch._dynamo.utils", "torch._inductor.utils", "sympy", "torch.distributed.tensor._api", "torchmetrics.functional",
    "torchvision", "matplotlib", "scipy", "wandb", "peft.tuners.lora", "diffusers.models.transformers.transformer_flux",
)  # fmt: skip


def in_a_process(code, *arguments, cwd):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.run
def test_a_run_imports_nothing_that_it_does_not_use(tmp_path):
    """A whole run on the embedded model, with its grids and a checkpoint."""
    code = f"import sys; from esd.train.__main__ import main; main(); print('found', [n for n in {UNUSED} if n in sys.modules])"
    said = in_a_process(code, "concept=pizza", "steps=1", "batch=1", "grid=2", "evaluate=false", "logger=csv", cwd=tmp_path)
    assert said.splitlines()[-1] == "found []"


@pytest.mark.run
def test_what_was_left_for_later_is_there_when_it_is_used(tmp_path):
    code = """
from esd.command.deferred import defer, is_deferred
defer()
import torch
from torch._dynamo import OptimizedModule, allow_in_graph, disable
@allow_in_graph
def twice(x):
    return 2 * x
once = disable(lambda x: x + 1)
layer = torch.nn.Linear(2, 2)
assert once(1) == 2 and not isinstance(layer, OptimizedModule) and is_deferred("torch._dynamo")
compiled = torch.compile(layer, backend="eager")
assert not is_deferred("torch._dynamo") and isinstance(compiled, OptimizedModule) and once(1) == 2
assert torch.equal(compiled(torch.ones(1, 2)), layer(torch.ones(1, 2)))
from diffusers.loaders import lora_base
import peft
assert is_deferred("peft")
wrapped = peft.get_peft_model(torch.nn.Sequential(layer), peft.LoraConfig(r=1, target_modules=["0"]))
assert not is_deferred("peft") and isinstance(wrapped.base_model.model[0], lora_base.BaseTunerLayer)
import torchmetrics
assert is_deferred("torchmetrics") and torchmetrics.Metric.__module__ == "torchmetrics.metric"
assert torchmetrics.MeanMetric()(torch.ones(2)) == 1 and not is_deferred("torchmetrics")
"""
    in_a_process(code, cwd=tmp_path)


def test_the_models_steps_are_the_protocols():
    from omegaconf import OmegaConf

    from esd.protocols import emoji

    model = OmegaConf.load(ROOT / "conf/model/emoji.yaml")
    assert (model.picture_steps, model.picture_sampler) == (emoji.STEPS, emoji.SAMPLER)
