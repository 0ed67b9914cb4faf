"""The published repositories, in every name and setting, from all the places that people have them in, through every command.

Built with small random weights by published.py; the names are right because their sizes are.
"""

import json
import math
import re
import shutil
from pathlib import Path

import published
import pytest
import torch
from diffusers import DiffusionPipeline
from harness import Server
from published import REPOSITORIES, VOCABULARY
from safetensors.torch import load_file

from esd import UserError, models
from esd.sample.sampling import sample

LOOK = {"steps": 2, "guidance": 3.0}
SINGLE = {  # the checkpoint in one file that stands for the repository
    "sd15": "v1-5-pruned-emaonly.safetensors", "sd21": "v2-1_768-ema-pruned.safetensors",
    "sd21-base": "v2-1_512-ema-pruned.safetensors", "sdxl": "sd_xl_base_1.0.safetensors",
}  # fmt: skip


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """places(name) → (the repository's folder, its checkpoint in one file or None, the hub cache it is in too)."""
    root, built = tmp_path_factory.mktemp("published"), {}

    def place(name: str) -> tuple[Path, Path | None, Path]:
        if name not in built:
            folder = published.build(name, root / name, single_files=True)
            published.as_hub_cache(name, folder, root / "hub")
            file = None
            if name in SINGLE:  # alone, with the configurations in a folder of its name
                file = root / "single" / name / SINGLE[name]
                file.parent.mkdir(parents=True)
                file.symlink_to(folder / SINGLE[name])
                file.with_suffix("").symlink_to(folder)
            built[name] = folder, file, root / "hub"
        return built[name]

    return place


@pytest.fixture
def copied(places, tmp_path):
    """A repository to change: copied(name), without its checkpoints in one file."""

    def copy(name: str) -> Path:
        return shutil.copytree(places(name)[0], tmp_path / name, ignore=shutil.ignore_patterns("v*-*", "sd_xl*", "vae_*"))

    return copy


def file_size(state: dict) -> int:
    """Of a .safetensors file with these names, numbers and shapes, up to the padding of its header."""
    entries, offset = {"__metadata__": {"format": "pt"}}, 0
    kinds = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.int32: "I32"}
    for name, tensor in sorted(state.items(), key=lambda item: (-item[1].element_size(), item[0])):
        end = offset + tensor.element_size() * math.prod(tensor.shape)
        entries[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    return 8 + len(json.dumps(entries, separators=(",", ":"))) + offset


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_names_and_shapes_add_up_to_the_published_sizes(name):
    """At full size, without memory: a wrong name anywhere is some bytes more or less."""
    data, modules = published.data(name), {}
    with torch.device("meta"):
        for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
            if f"{part}/config.json" in data["json"]:
                modules[part] = published.part_of(part, data["json"][f"{part}/config.json"])
                file = next(f for f in data["sizes"] if f.startswith(f"{part}/") and f.endswith("model.safetensors"))
                state = published.published_state(name, part, modules[part])
                assert abs(file_size(state) - data["sizes"][file]) < 8, file
        if name in SINGLE and name != "sdxl":  # XL's header has a picture in it, whose size is not known
            state = published.original_state(name, modules["unet"], modules["vae"], [modules["text_encoder"]])
            for file, size in data["sizes"].items():
                if "/" not in file and file.endswith(".safetensors"):
                    assert abs(file_size(published.checkpoint(name, file, state)) - size) < 8, file


def same_weights(one, other) -> bool:
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("name", REPOSITORIES)
def test_it_is_one_model_from_a_folder_the_hubs_cache_and_one_file(name, places, monkeypatch):
    """… and draws what diffusers draws from the folder."""
    folder, file, cache = places(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, hub = models.load(str(folder), name), models.load(REPOSITORIES[name][0], name)
    for part in ("unet", "vae", "text_encoder"):
        assert same_weights(getattr(model.base, part), getattr(hub.base, part))
    assert dict(model.scheduler.config) == dict(hub.scheduler.config) and model.latent_shape == hub.latent_shape
    if file:
        single = models.load(str(file), name)
        assert dict(model.scheduler.config) == dict(single.scheduler.config) and model.latent_shape == single.latent_shape
        for tensor, other in zip(model.denoiser.parameters(), single.denoiser.parameters(), strict=True):
            assert torch.equal(tensor.half(), other.half())  # XL's one file is in half precision

    theirs = DiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, **({} if name == "sdxl" else {"safety_checker": None})
    )
    theirs.scheduler = model.pipeline(model.denoiser).scheduler
    theirs.set_progress_bar_config(disable=True)
    latents = model.noise([5])
    picture = theirs("a cat", num_inference_steps=2, guidance_scale=3.0, latents=latents, output_type="pt").images
    torch.testing.assert_close(sample(model, model.denoiser, ["a cat"], [5], **LOOK), picture, atol=2e-3, rtol=0)
    assert len(model.base.tokenizer) == VOCABULARY and model.base.tokenizer.model_max_length == 77


@pytest.fixture(scope="module")
def server(places):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(places("sd14")[2]))  # the client reads it once
        server = Server()
    yield server
    server.close()


@pytest.mark.parametrize("name", REPOSITORIES)
def test_every_command_runs_on_it(name, places, server, tmp_path):
    """Training, sampling, evaluation and export, each command with every kind of place among the repositories."""
    folder, file, _ = places(name)
    ways = [str(folder), REPOSITORIES[name][0], str(file or folder)]
    turn = list(REPOSITORIES).index(name)

    def run(command: str, *arguments: str) -> str:
        place = ways[(turn + ["train", "sample", "evaluate", "export"].index(command)) % 3]
        options = ("model=sd21" if "2" in name else "model=sdxl" if name == "sdxl" else "model=sd14", f"model.path={place}")
        done = server.run(tmp_path, *options, *arguments, command=command, watch=False)
        assert done["code"] == 0, done["err"][-2000:]
        return done["out"]

    run("train", "concept=a cat", "steps=1", "sampling_steps=2", "grid=0", "logger=none", "evaluate=false", "hydra.run.dir=run")
    run("sample", "edit=run", "prompt=a cat", "count=1", "sampling_steps=2", "hydra.run.dir=drawn")
    (tmp_path / "prompts.csv").write_text("prompt,evaluation_seed\na cat,1\n")
    run(
        "evaluate",
        "edit=run",
        "protocol=prompts",
        "protocol.csv=prompts.csv",
        "sampling_steps=2",
        "precision=32-true",
        "out=judged",
    )
    run("export", "edit=run", "to=single-file", "hydra.run.dir=exported")
    assert (tmp_path / "drawn" / "grid.png").is_file()
    (result,) = json.loads((tmp_path / "judged" / "metrics.json").read_text())["results"].values()
    assert result["edit"]["pixels"]["mean"] > 0
    (exported,) = (tmp_path / "exported").glob("*.safetensors")
    again, base = models.load(str(exported), name), models.load(str(folder), name)
    edit = load_file(tmp_path / "run" / "edit.safetensors")
    for key, tensor in again.denoiser.named_parameters():
        wanted = edit.get(key, dict(base.denoiser.named_parameters())[key])
        assert torch.equal(tensor.half(), wanted.half())


def test_every_command_runs_on_stable_diffusion_35_large(places, server, tmp_path):
    """Its transformer lies in shards; trained and evaluated by folder, sampled by its name on the hub."""
    folder = published.build_sd35_large(tmp_path / "large")
    shards = sorted(path.name for path in (folder / "transformer").iterdir())
    assert "diffusion_pytorch_model.safetensors.index.json" in shards and len(shards) > 3
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    name = published.as_hub_cache(published.SD35, folder, places("sd14")[2], files)

    def run(command: str, *arguments: str, place: str = str(folder)) -> str:
        options = ("model=sd3", f"model.path={place}")
        done = server.run(tmp_path, *options, *arguments, command=command, watch=False)
        assert done["code"] == 0, done["err"][-2000:]
        return done["out"]

    short = ("steps=1", "sampling_steps=2", "grid=0", "logger=none", "evaluate=false")
    run("train", "concept=a cat", *short, "hydra.run.dir=run")
    said = run("train", "concept=a cat", "lora.rank=4", *short, "hydra.run.dir=lora", place=name)
    assert "float16" in said and ".safetensors and " in said, said  # and so many more
    run("sample", "edit=run", "prompt=a cat", "count=1", "sampling_steps=2", "hydra.run.dir=drawn", place=name)
    (tmp_path / "prompts.csv").write_text("prompt,evaluation_seed\na cat,1\n")
    judging = ("protocol=prompts", "protocol.csv=prompts.csv", "sampling_steps=2", "precision=32-true", "out=judged")
    run("evaluate", "edit=[run,lora]", *judging)
    run("export", "edit=run", "to=diffusers", "hydra.run.dir=whole")
    run("export", "edit=lora", "to=lora", "hydra.run.dir=small")
    assert (tmp_path / "drawn" / "grid.png").is_file()
    assert len(json.loads((tmp_path / "judged" / "metrics.json").read_text())["results"]) == 2
    again, base = models.load(str(tmp_path / "whole"), "again"), models.load(str(folder), "base")
    edit, weights = load_file(tmp_path / "run" / "edit.safetensors"), dict(base.denoiser.named_parameters())
    assert again.on_disk == torch.float16 and again.scheduler.config.shift == base.scheduler.config.shift == 3.0
    for key, tensor in again.denoiser.named_parameters():
        assert torch.equal(tensor, edit.get(key, weights[key]).half().float())


def changed(folder: Path, file: str, **values) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | values))


def only(folder: Path, part: str, *variants: str) -> None:
    """Leave a part the .safetensors of these variants alone; "" is the plain one."""
    for path in (folder / part).glob("*.safetensors"):
        if path.name.split(".", 1)[1].removesuffix("safetensors").strip(".") not in variants:
            path.unlink()


@pytest.mark.parametrize(
    ("name", "left", "read"),
    [
        ("sd14", {}, {"unet": "", "vae": "", "text_encoder": ""}),
        ("sd14", {"unet": ["fp16"], "vae": [""]}, {"unet": "fp16", "vae": "", "text_encoder": "fp16"}),
        ("sd14", {"vae": ["fp16"]}, {"unet": "fp16", "vae": "fp16", "text_encoder": "fp16"}),
        ("sd14", {"unet": ["non_ema"]}, {"unet": "non_ema", "vae": "", "text_encoder": ""}),
    ],
)
def test_variants_are_read_part_by_part_as_diffusers_reads_them(copied, name, left, read):
    """An fp16-only U-Net beside a plain VAE, as people put another VAE in."""
    folder = copied(name)
    for part, variants in left.items():
        only(folder, part, *variants)
    model = models.load(str(folder), name)
    variant = next((v for v in read.values() if v), None)
    for pickle in [*folder.glob("*/*.bin")]:  # which diffusers' pipelines take for a part's variant, and then miss it
        pickle.unlink()
    theirs = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, variant=variant, safety_checker=None)
    for part, which in read.items():
        assert same_weights(getattr(model.base, part), getattr(theirs, part))
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        file = load_file(folder / part / f"{stem}{'.' + which if which else ''}.safetensors")
        own = getattr(model.base, part).state_dict()
        key = {"unet": "conv_in.weight", "vae": "decoder.conv_in.weight", "text_encoder": "final_layer_norm.weight"}[part]
        wanted = file[key] if key in file else file[f"text_model.{key}"]
        assert torch.equal(own[key], wanted.float())


def test_variants_that_are_not_read_together_are_named(copied):
    folder = copied("sd14")
    only(folder, "unet", "non_ema")
    only(folder, "vae", "fp16")
    with pytest.raises(UserError, match="mixes variants .*unet as non_ema; vae as fp16"):
        models.folder_of(str(folder))


def test_pickles_alone_are_named_and_the_way_to_convert_them_works(copied, places, tmp_path, monkeypatch):
    folder = copied("sd14")
    for part in ("unet", "vae", "text_encoder"):
        stem = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
        plain = folder / part / f"{'model' if part == 'text_encoder' else stem}.safetensors"
        torch.save(load_file(plain), folder / part / f"{stem}.bin")
        only(folder, part)
    with pytest.raises(UserError, match="unet and vae|text_encoder and unet") as error:
        models.folder_of(str(folder))
    said = str(error.value)
    assert "\n" not in said and "as pickles only" in said and "can run code" in said and "download it again" not in said
    code = re.search(r'python -c "(.*)"', said)[1]
    monkeypatch.chdir(tmp_path)
    exec(code)
    assert "sd14-safetensors" in said
    converted = models.load(str(tmp_path / "sd14-safetensors"), "sd14")
    assert same_weights(converted.denoiser, models.load(str(places("sd14")[0]), "sd14").denoiser)


REFUSED = {  # the repository, a file of it, what it says there → what is said
    "EDM scheduler": (
        "sdxl",
        {"model_index.json": {"scheduler": ["diffusers", "EDMEulerScheduler"]}},
        "its scheduler is EDMEulerScheduler",
    ),
    "flow scheduler": (
        "sdxl",
        {"model_index.json": {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}},
        "is FlowMatchEuler",
    ),
    "LCM": ("sd15", {"model_index.json": {"scheduler": ["diffusers", "LCMScheduler"]}}, "its scheduler is LCMScheduler"),
    "flow betas": ("sdxl", {"scheduler/scheduler_config.json": {"use_flow_sigmas": True}}, "use_flow_sigmas"),
    "predicts x": ("sd15", {"scheduler/scheduler_config.json": {"prediction_type": "sample"}}, "predicts sample"),
    "betas": ("sd15", {"scheduler/scheduler_config.json": {"beta_schedule": "laplace"}}, "beta_schedule=laplace"),
    "latents' mean": ("sd15", {"vae/config.json": {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}}, "latents_mean"),
    "tiny VAE": ("sd15", {"model_index.json": {"vae": ["diffusers", "AutoencoderTiny"]}}, "its VAE is AutoencoderTiny"),
    "inpainting": ("sd15", {"unet/config.json": {"in_channels": 9}}, "takes 9 channels .* an inpainting model"),
    "instruct": ("sd15", {"unet/config.json": {"in_channels": 8}}, "an instruct"),
    "XL inpainting": ("sdxl", {"unet/config.json": {"in_channels": 9}}, "an inpainting model"),
    "variance": ("sd15", {"unet/config.json": {"out_channels": 8}}, "predicts 8 channels"),
    "upscaler": ("sd21", {"unet/config.json": {"num_class_embeds": 1000}}, "class labels"),
    "LCM U-Net": ("sd15", {"unet/config.json": {"time_cond_proj_dim": 256}}, "latent consistency"),
    "image prompts": ("sd15", {"unet/config.json": {"encoder_hid_dim_type": "ip_image_proj"}}, "ip_image_proj"),
    "XL in 1.5": ("sd15", {"unet/config.json": {"addition_embed_type": "text_time"}}, "addition_embed_type=text_time"),
    "no size": ("sd15", {"unet/config.json": {"sample_size": None}}, "sample_size=None, and must say"),
    "three sizes": ("sd15", {"unet/config.json": {"sample_size": [8, 8, 8]}}, "sample_size=.8, 8, 8."),
    "image to image": (
        "sd15",
        {"model_index.json": {"_class_name": "StableDiffusionImg2ImgPipeline"}},
        "holds a StableDiffusionImg2Img",
    ),
    "refiner": (
        "sdxl",
        {"model_index.json": {"_class_name": "StableDiffusionXLImg2ImgPipeline"}},
        "holds a StableDiffusionXLImg2Img",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_setting_that_is_not_understood_is_refused_by_name_before_anything_loads(copied, case):
    name, changes, said = REFUSED[case]
    folder = copied(name)
    for file, values in changes.items():
        changed(folder, file, **values)
    with pytest.raises(UserError, match=said) as error:
        models.folder_of(str(folder))
    assert "\n" not in str(error.value)


def test_the_schedulers_understood_are_those_that_diffusers_calls_compatible():
    from diffusers.schedulers import KarrasDiffusionSchedulers

    from esd.models.settings import SCHEDULERS

    assert {*SCHEDULERS, "EDMEulerScheduler"} == {scheduler.name for scheduler in KarrasDiffusionSchedulers}


@pytest.mark.parametrize(("name", "size"), [("sd15", [8, 16]), ("sd15", 11), ("sdxl", [16, 8])])
def test_a_size_that_is_a_pair_or_does_not_divide_is_drawn_as_diffusers_draws_it(copied, name, size):
    folder = copied(name)
    changed(folder, "unet/config.json", sample_size=size)
    model = models.load(str(folder), name)
    high, wide = size if isinstance(size, list) else (size, size)
    assert model.latent_shape == (4, high, wide)
    pipe = model.pipeline(model.denoiser)
    pipe.set_progress_bar_config(disable=True)
    noise = model.noise([1])
    options = {"height": 8 * high, "width": 8 * wide, "num_inference_steps": 2, "guidance_scale": 3.0}
    theirs = pipe("a cat", latents=noise, output_type="pt", **options).images
    ours = sample(model, model.denoiser, ["a cat"], [1], **LOOK)
    assert ours.shape[2:] == (8 * high, 8 * wide)
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_xls_latents_with_a_mean_and_a_deviation_are_decoded_as_diffusers_decodes_them(copied):
    folder = copied("sdxl")
    changed(folder, "vae/config.json", latents_mean=[0.3, -0.2, 0.1, 0.4], latents_std=[2.0, 0.5, 1.5, 0.7])
    model = models.load(str(folder), "sdxl")
    pipe = model.pipeline(model.denoiser)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe("a cat", num_inference_steps=2, guidance_scale=3.0, latents=model.noise([1]), output_type="pt").images
    torch.testing.assert_close(sample(model, model.denoiser, ["a cat"], [1], **LOOK), theirs, atol=2e-3, rtol=0)
    picture = torch.rand(1, 3, *theirs.shape[2:])
    mean = pipe.vae.encode(2 * picture - 1).latent_dist.mean
    middle, std = (torch.tensor(values).view(1, 4, 1, 1) for values in ([0.3, -0.2, 0.1, 0.4], [2.0, 0.5, 1.5, 0.7]))
    wanted = (mean - middle) * pipe.vae.config.scaling_factor / std  # StableDiffusionXLImg2ImgPipeline.prepare_latents
    torch.testing.assert_close(model.latents(picture), wanted)
