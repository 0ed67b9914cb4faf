"""An erasure from Python: the command's edit, on any supported pipeline, which stays as it was."""

import inspect
import signal
import textwrap
from functools import partial

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)  # fmt: skip
from families import built, unet
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Callback
from pytorch_lightning.loggers import CSVLogger

import esd.erasing
import esd.metrics
import esd.models.samplers
import esd.train.options  # noqa: F401  (registers the options' types)
from esd import UserError, erase, load_edit
from esd.erasing.cache import Cache
from esd.erasing.edit import read_edit
from esd.erasing.erase import SOURCES
from esd.erasing.erasure import Erasure
from esd.erasing.layers import LayerRule
from esd.erasing.load import denoiser_of
from esd.erasing.trajectories import Pool
from esd.files import CONF
from esd.models.devices import precision_for

SHORT = {"steps": 2, "sampling_steps": 3, "lr": 1e-2, "precision": "32-true", "progress": False}


def state_of(pipe) -> dict:
    """All of a pipeline that an erasure could leave changed."""
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {
        "weights": {(n, k): t.clone() for n, part in networks.items() for k, t in part.state_dict().items()},
        "gradients": [p.requires_grad for part in networks.values() for p in part.parameters()],
        "modes": [m.training for part in networks.values() for m in part.modules()],
    }


def same(one: dict, two: dict) -> bool:
    first, second = one.pop("weights"), two.pop("weights")
    return one == two and first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_options_make_the_commands_edit_byte_for_byte(tiny_folder, tmp_path, esd):
    """The whole file, but for the line of the record that says who made it."""
    done = esd(
        "train", "concept=[pizza,cat]", "erase_from=food", "templates=['{}','a {}']", "eta=2", "model=sd14",
        f"model.path={tiny_folder}", "layers=esd-u", "trajectories.walker=frozen", "guidance=2", "sampling_steps=6", "steps=3",
        "batch=2", "lr=1e-3", "seed=3", "preserve=[a car]", "preserve_weight=2", "schedule=cosine", "logger=none",
        "checkpoint_every=1", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    pipe.unet.train()
    before, random = state_of(pipe), torch.get_rng_state()
    edit = erase(
        pipe, ["pizza", "cat"], erase_from="food", templates=["{}", "a {}"], eta=2, layers="esd-u", trajectories=Pool("frozen"),
        guidance=2, sampling_steps=6, steps=3, batch=2, lr=1e-3, seed=3, preserve=["a car"], preserve_weight=2, progress=False,
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=3),
    )  # fmt: skip
    assert same(before, state_of(pipe)) and torch.equal(random, torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
    theirs = read_edit(done.folder / "run")
    assert edit.record["command"].startswith("esd.erase(pipe, ['pizza', 'cat'], erase_from='food', ")
    edit.record["command"] = theirs.record["command"]
    edit.save(tmp_path / "edit.safetensors")
    assert (tmp_path / "edit.safetensors").read_bytes() == (done.folder / "run" / "edit.safetensors").read_bytes()


@pytest.mark.parametrize("family", ["sd14", "sd21", "sdxl", "sd3", "flux"])
def test_an_edit_of_every_family_goes_on_and_off_its_pipeline(family, tmp_path):
    pipe = built(family)
    before = state_of(pipe)
    edit = erase(pipe, "a pizza", trajectories="student", **SHORT)
    weights = dict(denoiser_of(pipe).named_parameters())
    assert same(before, state_of(pipe)) and edit.record["base"] == type(pipe).__name__
    base = {name: weights[name].detach().clone() for name in edit.tensors}
    assert any(not torch.equal(base[name], tensor) for name, tensor in edit.tensors.items())
    edit.apply(pipe)
    assert all(torch.equal(weights[name], tensor) for name, tensor in edit.tensors.items())
    edit.save(tmp_path / "pizza.safetensors")
    load_edit(pipe, tmp_path / "pizza.safetensors", strength=0.5)  # the same edit, wherever it comes from
    assert all(torch.equal(weights[name], torch.lerp(base[name], tensor, 0.5)) for name, tensor in edit.tensors.items())
    edit.apply(pipe, strength=0)
    assert all(torch.equal(weights[name], tensor) for name, tensor in base.items())


def test_a_lora_of_a_pipeline_is_an_edit_too():
    pipe = built("sd14")
    before = state_of(pipe)
    edit = erase(pipe, "a pizza", lora_rank=2, dtype="bf16", **SHORT)
    assert edit.record["lora"] == {"rank": 2, "alpha": 2} and all(".lora_" in name for name in edit.tensors)
    assert same(before, state_of(pipe))
    before = state_of(pipe)
    edit.apply(pipe)
    edit.apply(pipe, 0)
    assert same(before, state_of(pipe))


def test_two_edits_that_were_never_saved_add_up():
    pipe = built("sd14")
    one, two = (erase(pipe, concept, seed=seed, **SHORT) for seed, concept in enumerate(("a pizza", "a cat")))
    weights = dict(pipe.unet.named_parameters())
    base = {name: weights[name].detach().clone() for name in one.tensors}
    assert one.apply(pipe, 0.5) == []
    with pytest.warns(UserWarning, match=r"'a cat' \(not saved, 2\) and 'a pizza' \(not saved, 1\) both change"):
        two.apply(pipe)
    for name, w in base.items():
        torch.testing.assert_close(weights[name].detach(), w + 0.5 * (one.tensors[name] - w) + (two.tensors[name] - w))
    with pytest.raises(UserError, match="has edits on it"):
        erase(pipe, "a car", **SHORT)
    one.apply(pipe, 0)
    two.apply(pipe, 0)
    assert all(torch.equal(weights[name], w) for name, w in base.items())


def test_a_pipeline_in_half_precision_is_trained_in_float32():
    pipe = built("sd14").to(torch.float16)
    before = state_of(pipe)
    edit = erase(pipe, "a pizza", **SHORT)
    assert same(before, state_of(pipe)) and {tensor.dtype for tensor in edit.tensors.values()} == {torch.float32}
    edit.apply(pipe)
    name, tensor = next(iter(edit.tensors.items()))
    assert torch.equal(dict(pipe.unet.named_parameters())[name], tensor.half())


def test_own_layers_sources_optimisers_callbacks_and_loggers(tmp_path, capsys):
    class Steps(Callback):
        seen = 0

        def on_train_batch_end(self, trainer, module, *args):
            self.seen = trainer.global_step

    pipe, steps, logger = built("sd14"), Steps(), CSVLogger(tmp_path, name="", version="")
    before = state_of(pipe)
    edit = erase(
        pipe, "a pizza", layers=LayerRule("keys", include=[r"attn2\.to_k"]), optimizer=partial(torch.optim.SGD, lr=0.1),
        trajectories=Cache(walks=2, folder=tmp_path / "walks"), callbacks=[steps], loggers=[logger],
        gradient_checkpointing=True, **{**SHORT, "steps": 10},
    )  # fmt: skip
    assert steps.seen == 10 and same(before, state_of(pipe)) and len(list((tmp_path / "walks").glob("*.safetensors"))) == 1
    assert edit.tensors and all("attn2.to_k" in name for name in edit.tensors) and edit.record["layers"] == "keys"
    assert edit.record["optimizer"] == {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
    header = (tmp_path / "metrics.csv").read_text().partition("\n")[0].split(",")
    assert {"step", "train/loss", "train/gradient_norm"} <= set(header)
    out, err = capsys.readouterr()
    assert out == "" and err == "", "without a bar nothing is said"
    erase(pipe, "a pizza", **{**SHORT, "progress": True})
    assert "Erasing" in capsys.readouterr().out


class Stop(Callback):
    def on_train_batch_end(self, *args):
        raise KeyboardInterrupt


def test_ctrl_c_stops_it_and_nothing_else():
    """Lightning ends the process, and leaves the next Ctrl-C without effect."""
    pipe, handler = built("sd14"), signal.getsignal(signal.SIGINT)
    before = state_of(pipe)
    with pytest.raises(KeyboardInterrupt):
        erase(pipe, "a pizza", callbacks=[Stop()], **SHORT)
    assert signal.getsignal(signal.SIGINT) is handler and same(before, state_of(pipe))


def offloaded():
    pipe = built("sd14")
    pipe.vae._hf_hook = object()
    return pipe


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concept": ""}, "concept is empty"),
        ({"concept": ["a", None]}, "concept=.* must be a text, or a"),
        ({"concept": ["a", "b", "c"], "erase_from": ["d", "e"]}, "concept has 3 entries and erase_from 2"),
        ({"templates": "a photo"}, "templates: 'a photo' needs one {}"),
        ({"eta": -1}, "eta=-1 must be a finite number, 0 or more"),
        ({"steps": 1.5}, "steps=1.5 must be a whole number"),
        ({"lr": 0}, "lr=0 trains nothing"),
        ({"preserve": ["A pizza"]}, "preserve holds 'a pizza', which concept erases"),
        ({"layers": "esd-y"}, "layers=esd-y is unknown: esd-all, esd-u, "),
        ({"layers": LayerRule("none", include=["nothing"])}, "layers=none matches no weight of UNet2DConditionModel"),
        ({"layers": 7}, "layers=7 is no rule: it needs a name"),
        ({"trajectories": "fresh"}, "trajectories=fresh is unknown: student, pool, cache"),
        ({"concept": "a b c d e f g h i j k"}, "longer than StableDiffusionPipeline's text encoder holds, and 'k' would"),
        ({"lora_alpha": 3}, "lora.alpha=3 must be above 0, and beside it a rank"),
        ({"precision": "int3"}, "precision, deterministic, callbacks: .*int3"),
        ({"precision": "bf16-true"}, "precision=bf16-true turns all weights to that type: give 32-true, bf16-mixed"),
        ({"optimizer": partial(torch.optim.Adam, size=3)}, "optimizer, schedule: .*size"),
        ({"pipe": 3}, "pipe is a int: supported are Stable Diffusion 1, 2, XL and 3, and FLUX.1"),
        ({"pipe": offloaded}, "offloaded: call erase before enable_model_cpu_offload"),
        ({"lr": 1e30, "steps": 9}, "not finite"),
    ],
)
def test_what_cannot_be_had_is_one_line(options, said):
    given = {"pipe": built("sd14") if "pipe" not in options else None, "concept": "a pizza", **SHORT, **options}
    given["pipe"] = given["pipe"]() if callable(given["pipe"]) and given["pipe"] is offloaded else given["pipe"]
    with pytest.raises(UserError, match=said) as caught:
        erase(given.pop("pipe"), given.pop("concept"), **given)
    assert "\n" not in str(caught.value)


def test_a_pipeline_that_draws_otherwise_is_not_supported():
    other = StableDiffusionImg2ImgPipeline(**built("sd14").components, requires_safety_checker=False)
    with pytest.raises(UserError, match="StableDiffusionImg2ImgPipeline: supported are .*, as StableDiffusionPipeline, "):
        erase(other, "a pizza", **SHORT)


def with_scheduler(family, kind, **options):
    pipe = built(family)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
    return pipe


def with_unet(**options):
    pipe = built("sd14")
    pipe.register_modules(unet=unet(**options))
    return pipe


@pytest.mark.parametrize(
    ("pipe", "said"),
    [
        (lambda: with_scheduler("sdxl", EDMDPMSolverMultistepScheduler), "its scheduler is EDMDPMSolverMultistepScheduler"),
        (lambda: with_scheduler("sd14", DDIMScheduler, prediction_type="sample"), "a model that predicts sample"),
        (lambda: with_scheduler("sd14", FlowMatchEulerDiscreteScheduler), "its scheduler is FlowMatchEulerDiscreteScheduler"),
        (lambda: with_scheduler("sd3", DDIMScheduler), "its scheduler is DDIMScheduler"),
        (lambda: with_unet(in_channels=9), "an inpainting model"),
        (lambda: with_unet(time_cond_proj_dim=8), "a latent consistency model"),
    ],
)
def test_a_loaded_pipeline_is_asked_what_a_folder_is(pipe, said):
    with pytest.raises(UserError, match=f"the StableDiffusion.*Pipeline cannot be used: .*{said}") as caught:
        erase(pipe(), "a pizza", **SHORT)
    assert "\n" not in str(caught.value)


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("train", ["concept=x", *overrides]), resolve=True)


def test_the_defaults_are_the_commands_for_stable_diffusion():
    cfg = composed("model=sd14")
    cfg |= {name: cfg[name]["name"] for name in ("layers", "trajectories")}
    assert cfg["trainer"]["precision"] == precision_for("cuda" if torch.cuda.is_available() else "cpu")
    cfg |= {"precision": None, "dtype": cfg["model"]["dtype"], "quantize": cfg["model"]["quantize"]}
    cfg |= {f"{group}_{name}": value for group in ("lora", "robust") for name, value in cfg[group].items()}
    own = {"pipe", "concept", "deterministic", "spared", "robust_from", "optimizer", "schedule"}
    own |= {"progress", "callbacks", "loggers"}
    defaults = {name: parameter.default for name, parameter in inspect.signature(erase).parameters.items() if name not in own}
    assert {**defaults, "templates": list(defaults["templates"])} == {name: cfg[name] for name in defaults}
    assert cfg["optimizer"] == {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-5}
    for name, source in SOURCES.items():
        options = composed(f"trajectories={name}")["trajectories"]
        assert options.pop("name") == name and vars(instantiate(options)) == vars(source())


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("gpu", [None, "emulates bf16", "computes in bf16"])
def test_what_is_computed_in_suits_the_device(native, gpu, monkeypatch):
    """Never bf16 on a processor that only emulates it; of the large models bf16 on any GPU, for its memory."""
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu is not None)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: gpu == "computes in bf16")
    (here, on_cpu), (small, small_on_cpu) = (
        [composed(f"model={name}", f"trainer={device}")["trainer"]["precision"] for device in ("default", "cpu")]
        for name in ("sd14", "emoji")
    )
    cpu = "bf16-mixed" if native else "32-true"
    assert precision_for("cpu") == on_cpu == small_on_cpu == cpu
    assert here == ("bf16-mixed" if gpu else cpu) and precision_for("cuda") == "bf16-mixed"
    assert small == ({"emulates bf16": "32-true", "computes in bf16": "bf16-mixed"}[gpu] if gpu else cpu)


@pytest.mark.parametrize("room", [esd.erasing, esd.metrics, esd.models.samplers])
def test_the_pieces_serve_on_their_own_as_their_docstrings_show(room):
    shown = "\n".join(line for line in room.__doc__.splitlines() if line.startswith("    ") or not line)
    made = {"pipe": built("sd14")}
    exec(textwrap.dedent(shown), made)
    (result,) = [made[name] for name in ("target", "distance", "x") if name in made]
    assert torch.as_tensor(result).isfinite().all()


def test_what_was_trained_is_back_on_its_device(tiny_folder, monkeypatch):
    """Lightning leaves it on the CPU, where the grid and the verdict would then be drawn."""
    moved = []
    monkeypatch.setattr(Erasure, "cpu", lambda self: moved.append("cpu") or self)
    to = Erasure.to
    monkeypatch.setattr(Erasure, "to", lambda self, device: moved.append("its own") or to(self, device))
    erase(StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None), "a pizza", **SHORT)
    assert "cpu" in moved and moved[-1] == "its own"


def test_an_edit_of_a_pipeline_in_bf16_names_no_hash(tiny_folder):
    """Its weights are rounded otherwise than the hash is: no other copy of the model would have it."""
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None, torch_dtype=torch.bfloat16)
    assert "base_hash" not in erase(pipe, "a pizza", **SHORT).record
    assert len(erase(pipe.to(torch.float16), "a pizza", **SHORT).record["base_hash"]) == 64
