"""Options, files and folders that are not what they should be: one line says what is wrong, the exit code is 2, no model was
loaded where the options alone tell, and nothing is left behind."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from esd.erasing.edit import Edit, save_edit

UNET = "unet/diffusion_pytorch_model.safetensors"

# @ is the folder of `inputs`. A model whose U-Net is cut short stands there as "unreadable": whoever loads it says so, and
# nothing else.
OPTIONS = {  # what python -m esd.train concept=a model.path=@/unreadable is given beside → what it says
    "nonsense=1": "Could not override 'nonsense'",
    "eta": "'eta' has no '=': options are name=value",
    "--nonsense": "unrecognized arguments: --nonsense",
    "model=nonsense": "Could not find 'model/nonsense' Available options",
    "experiment=nonsense": "Could not find 'experiment/nonsense'",
    "--config-name=nonsense": "Cannot find primary config 'nonsense'",
    "eta=abc": "eta=abc: Value 'abc'",
    "eta=-1": "eta=-1.0 must be a finite number, 0 or more",
    "eta=nan": "eta=nan must be a finite number",
    "eta=1e400": "eta=inf must be a finite number",
    "eta=1,2": "Ambiguous value for argument 'eta=1,2'",
    "eta='${nowhere}'": "Interpolation key 'nowhere' not found",
    "lr=0": "lr=0 trains nothing",
    "steps=0": "steps=0 must be a whole number, 1 or more",
    "steps=1.5": "steps=1.5: Value '1.5'",
    "steps=99999999999999999999": "steps=99999999999999999999 must be a whole number",
    "steps=-5": "steps=-5 must be a whole number",
    "batch=null": "batch",
    "batch=0": "batch=0 must be a whole number",
    "sampling_steps=0": "sampling_steps=0 must be",
    "seed=-1": "seed=-1 must be a whole number, 0 or more",
    "checkpoint_minutes=-1": "checkpoint_minutes=-1.0 must be",
    "+trainer.accumulate_grad_batches=2": "trainer.accumulate_grad_batches must be 1: give batch=",
    "compile=maybe": "compile=maybe: Value 'maybe' is not a valid bool",
    "concept=": "concept is empty",
    "concept='[a,null]'": "concept=['a', None] must be a text",
    "concept='[[a,b]]'": "must be a text, or a [list] of texts",
    "concept=a,,b": "concept is empty",
    "concept=a,b,a": "concept names 'a' twice: once is enough",
    "concept=caf\udce9": "concept is no text in UTF-8: ['caf\\udce9']",
    "concept=gargoyle evaluate=true": "the emoji model knows no 'gargoyle'",
    "erase_from='[b,c,d]'": "concept has 1 entries and erase_from 3: they pair up",
    "templates=[]": "needs one {} where the concept goes",
    "templates=\"['a {} of {}']\"": "'a {} of {}' needs one {}",
    "templates=[no-place]": "'no-place' needs one {}",
    "trajectories=pictures": "give a folder with pictures",
    "images=@/nothing": "is no folder: give a folder with pictures",
    "concept=auto": "concept=auto is found in pictures: give images=folder/ beside it, or name the concept",
    "concept=auto trajectories=student": "concept=auto is found in pictures: give images=folder/ beside it",
    "trajectories=nonsense": "Could not find 'trajectories/nonsense'",
    "objective=best": "objective=best is unknown: kept-erased, erased, kept",
    "logger.name=tensorboard": "logger.name=tensorboard is unknown",
    "robust.share=-1": "robust.share=-1.0 must be a finite number, 0 or more",
    "robust.share=a": "Value 'a'",
    "robust.inner=0": "robust.inner=0 must be a whole number, 1 or more",
    "trajectories.walker=nobody": "trajectories.walker=nobody is unknown: frozen, student",
    "trajectories=cache trajectories.walks=0": "trajectories.walks=0 must be a whole number",
    "trajectories=cache trajectories.dtype=int8": "trajectories.dtype=int8 is unknown: float16",
    "layers=esd-x layers.include=attn2": "layers: include, exclude and modules are [lists]",
    "layers=esd-x layers.include=\"['(']\"": "layers: missing ), unterminated subpattern",
    "trainer.devices=0": "trainer: `Trainer(devices=0)` value is not a valid input",
    "trainer.precision=7-bit": "trainer: Precision '7-bit' is invalid",
    "trainer.precision=bf16-true": "trainer.precision=bf16-true turns all weights to that type: give 32-true, bf16-mixed",
    "trainer.accelerator=quantum": "trainer: You selected an invalid accelerator name",
    "optimizer.lr=abc": "optimizer, schedule: ",
    "+optimizer.momentumm=1": "unexpected keyword argument 'momentumm'",
    "concept=pizza preserve='[a cat,Pizza]'": "preserve holds 'pizza', which concept erases",
    "preserve=@/nothing.txt": "nothing.txt: No such file",
    "preserve=@/empty": "holds no lines",
    "preserve=@/latin1.csv": "can't decode byte",
    "resume=@/nothing": "is no run's folder",
    "hydra.run.dir=@/empty": "File exists",
}
MODELS = {  # model.path of the same → what it says
    "@/nothing": "does not exist",
    "@/empty": "is no .safetensors file",
    "@/run": "has no model_index.json",
    "@/unreadable": "cannot be read (Unable to load weights",
    "@/index-no-json": "model_index.json is damaged",
    "@/index-no-object": "model_index.json is damaged (it holds a list)",
    "@/index-of-another": "holds a WuerstchenPipeline: supported are",
    "@/index-without-unet": "cannot be read (Pipeline",
    "@/config-no-json": "unet/config.json is damaged",
    "@/config-missing": "cannot be read (Error no file named config.json",
    "@/vae-missing": "it has no vae",
    "@/tokenizer-empty": "it has no tokenizer",
    "@/text-encoder-cut": "cannot be read",
    "@/tensor-missing": "holds 207 of the 208 tensors",
    "@/tensor-of-another-shape": "conv_in.weight expected shape",
    "@/edit.safetensors": "holds no diffusion model",
    "@/cut.safetensors": "is damaged or cut short",
    "@/tiny layers=xlayer": "layers=xlayer matches no weight",
    "@/tiny sampling_steps=5000": "sampling_steps=5000 must be from 1 to 999",
}
COMMANDS = {  # whole commands
    "train -m concept=a eta=1,abc": "eta=abc: Value 'abc'",
    "train -m concept=a layers=esd-x,nonsense": "Could not find 'layers/nonsense'",
    "train -m concept=a 'eta=range()'": "missing a required argument: 'start'",
    "train -m resume=@/nothing": "is no sweep's folder",
    "train resume=@/run eta=2": "eta is fixed once a run has begun",
    "train eta=1": "concept is missing: give concept=…",
    "sample edit=@/edit.safetensors": "prompt is missing: give prompt=…",
    "sample edit=@/edit.safetensors prompt=a accelerator=tpu": "accelerator=tpu is unknown: auto, cpu, gpu",
    "sample prompt=a edit=@/nothing": "does not exist: give the edit.safetensors of a run",
    "sample prompt=a edit=@/cut.safetensors": "is damaged or cut short",
    "train concept=pizza evaluate=perhaps": "evaluate=perhaps must be true, false or long",
    "train concept=x model=sd14 evaluate=long": "evaluate=long is for the embedded model",
    "sample prompt=a edit=@/empty": "is no .safetensors file; a pickle can run code",
    "sample prompt=a edit=@/record-no-json.safetensors": "is damaged or cut short",
    "sample prompt=a edit=@/record-no-object.safetensors": "is damaged or cut short",
    "sample prompt=a edit=@/record-of-other-kinds.safetensors": "its record's concept is 5",
    "sample prompt=a edit=@/other-names.safetensors model.path=@/tiny": "nope is no weight of this UNet2DConditionModel",
    "sample prompt=a edit=@/other-shapes.safetensors model.path=@/tiny": "it was made for another model",
    "sample prompt=a edit=@/not-finite.safetensors model.path=@/tiny": "holds no finite numbers",
    "sample prompt=a edit=@/edit.safetensors count=abc": "count=abc must be a whole number",
    "sample prompt=a edit=@/edit.safetensors guidance=inf": "guidance=inf must be a finite number",
    "export to=gguf edit=@/edit.safetensors": "to=gguf is unknown: official, diffusers",
    "export to=lora edit=@/edit.safetensors rank=0": "rank=0 must be a whole number, 1 or more",
    "export to=lora edit=@/edit.safetensors energy=2": "energy=2 must be above 0 and up to 1",
    "export to=lora edit=@/edit.safetensors rank=2 energy=0.5": "give one of them",
    "export to=lora edit=@/edit.safetensors format=webui": "format=webui is unknown: peft, kohya",
    "export to=official edit=@/edit.safetensors rank=2": "rank, energy and format are a LoRA's",
    "export to=official edit=@/edit.safetensors strict=maybe": "strict=maybe must be true or false",
    "export to=official edit=@/edit.safetensors push=a/b/c": "push=a/b/c is no OWNER/NAME",
    "export to=official edit=@/edit.safetensors model.path=@/tiny strict=true": "the edit was made for another",
    "evaluate protocol=emoji": "edit is missing: give edit=…",
    "evaluate edit=@/edit.safetensors protocol=nonsense": "Could not find 'protocol/nonsense'",
    "evaluate edit=@/edit.safetensors protocol=prompts": "protocol.csv is missing: give protocol.csv=…",
    "evaluate edit=@/edit.safetensors protocol=emoji concept=gargoyle": "the emoji model knows no 'gargoyle'",
    "evaluate edit=@/edit.safetensors protocol=emoji protocol.pictures=0": "protocol.pictures=0 must be a whole number",
    "evaluate edit=@/edit.safetensors protocol=i2p-nudity protocol.csv=@/good.csv protocol.threshold=2": "threshold=2 must lie",
    "evaluate edit=@/edit.safetensors protocol=prompts protocol.csv=@/good.csv devices=0": "devices=0 must be",
    "evaluate edit=@/edit.safetensors protocol=prompts protocol.csv=@/good.csv precision=7-bit": "Precision '7-bit' is invalid",
    "evaluate edit=@/edit.safetensors protocol=prompts protocol.csv=@/good.csv precision=16-true": "16-true turns all",
    "evaluate edit=@/tiny model.path=@/tiny protocol=prompts protocol.csv=@/good.csv out=@/run": "holds other things",
    "report @/nothing": "is no folder",
    "report @/no-runs": "nothing there left a metrics.json",
    "report @/metrics-no-json": "metrics.json is damaged",
    "report @/metrics-of-another": "is not as esd.train and esd.evaluate write it",
    "report": "the following arguments are required: DIR",
    "cache remove": "argument action: invalid choice: 'remove'",
    "cache --folder @/empty": "is a file",
    "dashboard nonsense": "'nonsense' is no ENTITY/PROJECT",
    "dashboard": "the following arguments are required: ENTITY/PROJECT",
    "studies nonsense": "argument study: invalid choice: 'nonsense'",
    "pretrain seed=abc": "seed=abc must be a whole number",
    "pretrain accelerator=quantum": "You selected an invalid accelerator name",
    "pretrain init=@/nothing": "has no model_index.json",
    "pretrain out=@/empty": "File exists",
}
TABLES = {  # lines of a CSV → what python -m esd.evaluate protocol=prompts says of it
    "": "holds no lines",
    "prompt,evaluation_seed": "holds no lines",
    "text,evaluation_seed\na,1": "has no column prompt: it has text, evaluation_seed",
    "prompt\na": "has no column evaluation_seed",
    "prompt,evaluation_seed\na,abc": "entry 1: 'abc' is no whole number",
    "prompt,evaluation_seed\na,1\na,1.5": "entry 2: '1.5' is no whole number",
    "prompt,evaluation_seed\na,1\na,-5": "entry 2: seed=-5 must be a whole number",
    "prompt,evaluation_seed\na,inf": "entry 1: 'inf' is no whole number",
    "prompt,evaluation_seed,guidance\na,1,nan": "entry 1: guidance=nan must be a finite number",
    "prompt,evaluation_seed\na pizza, hot,1": "entry 1: it has more fields than the header",
    'prompt,evaluation_seed\n"a,1': "is no CSV file that can be read",
}


@pytest.fixture(scope="module")
def inputs(tiny_folder, tmp_path_factory):
    """A folder of files and models that are not what they should be, and of a few that are."""
    folder = tmp_path_factory.mktemp("inputs")

    def model(name: str):
        return shutil.copytree(tiny_folder, folder / name)

    def index(name: str, **changes):
        file = model(name) / "model_index.json"
        parts = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: part for key, part in parts.items() if part is not None}))

    def cut(file):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        return file

    model("tiny")
    cut(model("unreadable") / UNET)
    (model("index-no-json") / "model_index.json").write_bytes(b"\xff{")
    (model("index-no-object") / "model_index.json").write_text("[]")
    index("index-of-another", _class_name="WuerstchenPipeline")
    index("index-without-unet", unet=None)
    (model("config-no-json") / "unet/config.json").write_text("{,}")
    (model("config-missing") / "unet/config.json").unlink()
    shutil.rmtree(model("vae-missing") / "vae")
    for file in (model("tokenizer-empty") / "tokenizer").iterdir():
        file.unlink()
    cut(model("text-encoder-cut") / "text_encoder/model.safetensors")
    weights = load_file(tiny_folder / UNET)
    save_file({name: weights[name] for name in sorted(weights)[1:]}, model("tensor-missing") / UNET)
    save_file(weights | {"conv_in.weight": torch.zeros(3)}, model("tensor-of-another-shape") / UNET)

    name = next(name for name in weights if "attn2" in name)
    record = {"base": "another", "base_hash": "0" * 64, "concept": ["pizza"], "erase_from": [""], "eta": 1.0, "layers": "esd-x"}
    save_edit(folder / "edit.safetensors", Edit({name: weights[name] + 1}, record))
    save_edit(folder / "other-names.safetensors", Edit({"nope": torch.zeros(2)}))
    save_edit(folder / "other-shapes.safetensors", Edit({name: torch.zeros(2)}))
    save_edit(folder / "not-finite.safetensors", Edit({name: weights[name] * float("nan")}))
    save_edit(folder / "record-of-other-kinds.safetensors", Edit({name: weights[name]}, record | {"concept": 5}))
    save_file({name: weights[name]}, folder / "record-no-json.safetensors", {"record": "{,}"})
    save_file({name: weights[name]}, folder / "record-no-object.safetensors", {"record": "[1]"})
    cut(shutil.copy(folder / "edit.safetensors", folder / "cut.safetensors"))

    (folder / "empty").touch()
    (folder / "good.csv").write_text("prompt,evaluation_seed\na,1\n")
    (folder / "latin1.csv").write_bytes("café".encode("latin1"))
    (folder / "no-runs").mkdir()
    (folder / "run" / ".hydra").mkdir(parents=True)
    (folder / "run" / ".hydra" / "overrides.yaml").write_text("- concept=a\n")
    for name, content in (("metrics-no-json", "{,}"), ("metrics-of-another", '{"record": 5}')):
        (folder / name).mkdir()
        (folder / name / "metrics.json").write_text(content)
    return folder


@pytest.fixture
def told(server, inputs, tmp_path):
    """told("train concept=…") → the one line that it ends in; nothing is left of it."""

    def run(line: str, lines: int = 1) -> str:
        command, *arguments = (part.replace("@", str(inputs)) for part in shlex.split(line))
        before = sorted(inputs.rglob("*"))
        done = server.run(tmp_path / "work", *arguments, command=command, watch=False)
        said = done["err"].strip().splitlines()
        assert done["code"] == 2 and len(said) == lines and said[-1].startswith("error: "), (done["code"], done["err"])
        assert not [path for path in (tmp_path / "work").rglob("*") if path.is_file()] and sorted(inputs.rglob("*")) == before
        return said[-1]

    return run


@pytest.mark.parametrize("given", OPTIONS)
def test_a_wrong_option_is_told_before_a_model_is_loaded(told, given):
    assert OPTIONS[given] in told(f"train concept=a model.path=@/unreadable evaluate=false logger=none {given}")


@pytest.mark.parametrize("given", MODELS)
def test_a_model_that_is_none_is_told(told, given):
    assert MODELS[given] in told(f"train concept=a evaluate=false logger=none model.path={given}")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_wrong_command_is_told(told, line):
    assert COMMANDS[line] in told(line)


@pytest.mark.parametrize("content", TABLES)
def test_a_table_of_prompts_that_is_none_is_told(told, tmp_path, content):
    (tmp_path / "table.csv").write_text(content)
    said = told(f"evaluate edit=@/edit.safetensors model.path=@/unreadable protocol=prompts protocol.csv={tmp_path}/table.csv")
    assert TABLES[content] in said


def test_of_a_sweep_the_failed_run_is_kept_and_named(server, tmp_path):
    done = server.run(tmp_path, "-m", "concept=cat", "eta=-1", "evaluate=false", "logger=none")
    which, why = done["err"].strip().splitlines()
    assert done["code"] == 2 and "eta=-1" in which and why == "error: eta=-1.0 must be a finite number, 0 or more"
    assert "0-cat: eta=-1.0 must be a finite number, 0 or more" in done["out"]
    assert len(list(tmp_path.glob("outputs/multirun/*/*/0-cat/error.txt"))) == 1


def test_the_table_is_long_enough():
    assert len(OPTIONS) + len(MODELS) + len(COMMANDS) + len(TABLES) >= 100
