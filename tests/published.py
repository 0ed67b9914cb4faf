"""Published repositories as folders: every file name and every setting as published, weights small and random.

tests/published/*.json hold the lists of files, their sizes, and the JSON files of each repository. Only widths are made small,
and the vocabulary; how many layers there are and what every tensor is called stays. That the names are right is tested by the
published sizes of the files, to which the full-size shapes under these names add up.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from families import t5, t5_tokenizer, vae
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from esd.export import layout

DATA = Path(__file__).parent / "published"
REPOSITORIES = {
    "sd14": ("CompVis/stable-diffusion-v1-4", "stable-diffusion-v1-4"),
    "sd15": ("stable-diffusion-v1-5/stable-diffusion-v1-5", "stable-diffusion-v1-5"),
    "sd21": ("stabilityai/stable-diffusion-2-1", "stable-diffusion-2-1"),
    "sd21-base": ("stabilityai/stable-diffusion-2-1-base", "stable-diffusion-2-1-base"),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-xl-base-1.0"),
}
SD35 = "sd35-large"  # of which the published data has the indexes and no sizes
PUBLISHED = REPOSITORIES | {SD35: ("stabilityai/stable-diffusion-3.5-large", "stable-diffusion-3.5-large")}
VOCABULARY = 516  # 256 bytes, again at the end of a word, two merges, and the two special ones, in the published order
UNET = {
    "sd1": {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 24, "sample_size": 8},
    "sd2": {"block_out_channels": [20, 20, 40, 40], "cross_attention_dim": 32, "norm_num_groups": 4},
    "sdxl": {
        "block_out_channels": [20, 20, 40], "cross_attention_dim": 64, "norm_num_groups": 4, "sample_size": 16,
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 40,
    },
}  # fmt: skip
TEXT = {  # by the published hidden size
    768: {"hidden_size": 24, "intermediate_size": 48, "projection_dim": 24},
    1024: {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 16},
    1280: {"hidden_size": 40, "intermediate_size": 80, "projection_dim": 40},
}
SCHEDULE = (  # what a checkpoint of Stable Diffusion 1 and 2 keeps of its training schedule
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip


def data(name: str) -> dict:
    """files, sizes and json of one of PUBLISHED."""
    return json.loads((DATA / f"{PUBLISHED[name][1]}.json").read_text())


def small(name: str, file: str, content: dict) -> dict:
    """A published JSON file with small widths."""
    content, part = copy.deepcopy(content), file.split("/")[0]
    if part == "unet":
        content |= UNET["sdxl" if name == "sdxl" else name[:3]]
        if name.startswith("sd2"):
            content["sample_size"] //= 8  # 64 and 96
    elif part.startswith("vae") and file.endswith("config.json"):
        content |= {"block_out_channels": [32] * 4, "sample_size": content["sample_size"] // 8}
    elif part.startswith("text_encoder") and file.endswith("config.json"):
        content |= {**TEXT[content["hidden_size"]], "vocab_size": VOCABULARY}
    return content


def text_encoder(config: dict) -> nn.Module:
    kind = CLIPTextModelWithProjection if "WithProjection" in config["architectures"][0] else CLIPTextModel
    return kind(
        CLIPTextConfig(
            **{key: value for key, value in config.items() if key not in ("architectures", "model_type", "torch_dtype")}
        )
    )


def part_of(part: str, config: dict) -> nn.Module:
    """A part's real class with random weights, as its configuration says."""
    if part.startswith("text_encoder"):
        return text_encoder(config)
    return (UNet2DConditionModel if part == "unet" else AutoencoderKL).from_config(config)


def published_state(name: str, part: str, module: nn.Module) -> dict[str, Tensor]:
    """A part's tensors under the names of the published files: Stable Diffusion 1 and 2 were written by older libraries."""
    state, old = module.state_dict(), name != "sdxl"
    if part.startswith("text_encoder"):
        state = {key if key.startswith("text_") else f"text_model.{key}": tensor for key, tensor in state.items()}
        length = state["text_model.embeddings.position_embedding.weight"].shape[0]
        return state | ({"text_model.embeddings.position_ids": torch.arange(length)[None]} if old else {})
    if part.startswith("vae") and old:
        for now, then in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            state = {
                key.replace(now, then) if ".mid_block.attentions." in key else key: tensor for key, tensor in state.items()
            }  # fmt: skip
    return state


def tokenizer_files(folder: Path) -> None:
    """vocab.json and merges.txt in the published order: the bytes, "!" first; these at the end of a word; merges; the two."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shown += range(0x100, 0x100 + 256 - len(shown))  # bytes that are no letter have one of their own
    letters = [chr(code) for code in shown]
    merges = ["a n", "an d</w>"]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == VOCABULARY
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")


def original_state(name: str, unet: nn.Module, vae: nn.Module, encoders: list[nn.Module]) -> dict[str, Tensor]:
    """What the published checkpoint in one file holds besides EMA weights."""
    names = layout.unet_names(unet)
    state = {f"model.diffusion_model.{names[key]}": tensor for key, tensor in unet.state_dict().items()}
    state |= {f"first_stage_model.{key}": tensor for key, tensor in layout.vae_state(vae).items()}
    positions = torch.arange(encoders[0].config.max_position_embeddings)[None]
    if name == "sdxl":
        clip, open_clip = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
        state |= layout.clip_state(encoders[0], clip) | layout.open_clip_state(encoders[1], open_clip)
        state = {key: tensor.half() for key, tensor in state.items()}
        return state | {f"{clip}embeddings.position_ids": positions, f"{open_clip}logit_scale": torch.ones(()).half()}
    state |= {key: torch.ones(1000) for key in SCHEDULE}
    if name.startswith("sd1"):
        clip = "cond_stage_model.transformer.text_model."
        return state | layout.clip_state(encoders[0], clip) | {f"{clip}embeddings.position_ids": positions}
    open_clip = "cond_stage_model.model."  # with its last layer, which is not used, and is in no folder
    whole = text_encoder({**encoders[0].config.to_dict(), "num_hidden_layers": 24, "architectures": ["CLIPTextModel"]})
    whole.load_state_dict(encoders[0].state_dict(), strict=False)
    width = whole.config.hidden_size
    state |= {f"{open_clip}text_projection": torch.ones(width, width), f"{open_clip}logit_scale": torch.ones(())}
    return state | layout.open_clip_state(whole, open_clip)


EMA_COUNTERS = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(1, dtype=torch.int32)}


def ema_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The U-Net's tensors as a checkpoint keeps its EMA weights beside those trained last."""
    unet = {key: tensor for key, tensor in state.items() if key.startswith("model.diffusion_model.")}
    return {f"model_ema.{key.removeprefix('model.').replace('.', '')}": tensor * 0.5 for key, tensor in unet.items()}


def checkpoint(name: str, file: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """One of the repository's single files."""
    if "nonema" in file or name == "sdxl":
        return state
    return state | EMA_COUNTERS | (ema_names(state) if file == "v1-5-pruned.safetensors" else {})


def build(name: str, folder: Path, single_files: bool = False) -> Path:
    """The repository in `folder`: every published file, the networks' .safetensors real, what no pipeline reads a few bytes.

    A variant's weights differ from the plain ones (fp16 are these halved, non_ema others), so that it shows which were read.
    single_files: the checkpoints in one file too.
    """
    published = data(name)
    torch.manual_seed(sum(map(ord, name)))
    contents = {file: small(name, file, content) for file, content in published["json"].items()}
    for file in published["files"]:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file in contents:
            path.write_text(json.dumps(contents[file]))
        elif path.name == "vocab.json":
            tokenizer_files(path.parent)
        elif path.name != "merges.txt" and not (path.suffix == ".safetensors" and "/" not in file):
            path.write_bytes(b"not read")
    parts = {}
    for part in ("unet", "vae", "text_encoder", "text_encoder_2", "vae_1_0"):
        if f"{part}/config.json" not in contents:
            continue
        parts[part] = part_of(part, contents[f"{part}/config.json"])
        state = published_state(name, part, parts[part])
        for file in (file for file in published["files"] if file.startswith(f"{part}/") and file.endswith(".safetensors")):
            like = {
                key: tensor if not tensor.is_floating_point() else tensor.half() if ".fp16." in file
                else tensor * 0.5 if ".non_ema." in file else tensor
                for key, tensor in state.items()
            }  # fmt: skip
            save_file({key: tensor.contiguous() for key, tensor in like.items()}, folder / file, {"format": "pt"})
    if single_files:
        encoders = [module for part, module in parts.items() if part.startswith("text_encoder")]
        state = original_state(name, parts["unet"], parts["vae"], encoders)
        for file in published["sizes"]:
            if "/" not in file and file.endswith(".safetensors") and "lora" not in file:
                whole = {key: tensor.detach().contiguous() for key, tensor in checkpoint(name, file, state).items()}
                save_file(whole, folder / file, {"format": "pt"})
    return folder


def build_sd35_large(folder: Path) -> Path:
    """Stable Diffusion 3.5 large: the index and the configurations of scheduler, first CLIP and its tokenizer as published, the
    transformer in shards, as published, with its 38 layers; what the data does not have, as diffusers saves it."""
    torch.manual_seed(35)
    own, clip = data(SD35)["json"], VOCABULARY
    wide = {**own["config.json"], "hidden_size": 1280, "num_attention_heads": 20, "hidden_act": "gelu"}
    encoders = [
        text_encoder({**config, **TEXT[config["hidden_size"]], "vocab_size": clip, "num_hidden_layers": 2})
        for config in (own["config.json"], wide)
    ]
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=38, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=64, caption_projection_dim=16, pooled_projection_dim=64,
        pos_embed_max_size=8, qk_norm="rms_norm",
    )  # fmt: skip
    coder = vae(latent_channels=16, shift_factor=0.0609, scaling_factor=1.5305)
    networks = {"vae": coder, "text_encoder": encoders[0], "text_encoder_2": encoders[1], "text_encoder_3": t5(64)}
    for part, network in networks.items():
        network.half().save_pretrained(folder / part)
    transformer.half().save_pretrained(folder / "transformer", max_shard_size="300KB")
    t5_tokenizer().save_pretrained(folder / "tokenizer_3")
    for part in ("tokenizer", "tokenizer_2"):
        (folder / part).mkdir()
        tokenizer_files(folder / part)
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            (folder / part / file).write_text(json.dumps(own[file]))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(own["scheduler_config.json"]))
    (folder / "model_index.json").write_text(json.dumps(own["model_index.json"]))
    return folder


def as_hub_cache(name: str, folder: Path, cache: Path, files: list[str] | None = None) -> str:
    """The repository as the hub's client leaves it in its cache: snapshots of links to blobs. Returns its name on the hub.

    files: of these only; nothing: those that diffusers downloads for text to picture without a variant.
    """
    repository = PUBLISHED[name][0]
    root, commit = cache / f"models--{repository.replace('/', '--')}", hashlib.sha1(repository.encode()).hexdigest()
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    (root / "blobs").mkdir()
    if files is None:
        index = json.loads((folder / "model_index.json").read_text())
        files = [
            file for file in data(name)["files"]
            if file == "model_index.json" or (file.split("/")[0] in index and "/" in file and not (
                file.endswith((".bin", ".onnx", ".onnx_data", ".xml")) or ".fp16." in file or ".non_ema." in file
            ))
        ]  # fmt: skip
    for file in files:
        blob = root / "blobs" / hashlib.sha1(file.encode()).hexdigest()
        shutil.copyfile(folder / file, blob)
        link = root / "snapshots" / commit / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return repository
