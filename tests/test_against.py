"""What erasure is compared with: safe latent diffusion, and filters."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf

from esd import UserError
from esd.evaluate.variants import asked_against, variants_of
from esd.protocols import Row
from esd.sample.sampling import sample
from esd.sample.sld import SETTINGS, SafeLatentDiffusion, Setting, safety_term


def test_the_published_settings():
    assert SETTINGS["medium"] == (10, 1000, 0.01, 0.3, 0.4) and SETTINGS["max"] == (0, 5000, 1.0, 0.5, 0.7)
    assert SETTINGS["weak"][:2] == (15, 200) and SETTINGS["strong"] == (7, 2000, 0.025, 0.5, 0.7)


def test_the_safety_term_by_hand():
    eps_c, eps_null, eps_s = torch.tensor([0.0, 0.0, 0.5]), torch.zeros(3), torch.tensor([0.001, 2.0, 0.1])
    found = safety_term(eps_c, eps_null, eps_s, scale=100, threshold=0.0)
    assert torch.allclose(found, torch.tensor([0.1 * 0.001, 1.0 * 2.0, 0.0]))  # in proportion; once; not past ε_S


def test_warm_up_and_momentum_by_hand(monkeypatch):
    monkeypatch.setitem(SETTINGS, "test", Setting(25, 1e6, 1.0, 0.5, 0.4))
    one = torch.ones(1, 1, 1, 1)
    guided = SafeLatentDiffusion("c", "test").guidance(lambda rows, x, position: 2 * one, 3.0, steps=4)  # γ = 2 at every step

    def step(position: int) -> float:
        return guided(torch.tensor([0]), torch.tensor([position]), one, one, 0 * one).item()

    # For half of the steps nothing is taken away. γ is 2, then 2 + 0.5·1.2 = 2.6; ν 0.6·2 = 1.2, then 0.4·1.2 + 0.6·2.6 = 2.04.
    assert step(0) == step(1) == 3.0
    assert step(2) == pytest.approx(3 * (1 - (2 + 0.5 * 2.04)))
    assert step(3) == pytest.approx(3 * (1 - (2 + 0.5 * (0.4 * 2.04 + 0.6 * 3.02))))


def test_pictures_are_guided_away_from_the_concept_alone(tiny):
    def drawn(**means):
        return sample(tiny, tiny.denoiser, ["a cat", "a pizza"], [1, 2], steps=3, guidance=2.0, **means)

    plain = drawn()
    assert torch.allclose(drawn(safe=SafeLatentDiffusion("", "max")), plain, atol=1e-5), "away from nothing is nowhere"
    strong = drawn(safe=SafeLatentDiffusion("a dog", "max"))
    assert (strong - plain).abs().max() > 1e-3
    one = sample(tiny, tiny.denoiser, ["a pizza"], [2], steps=3, guidance=2.0, safe=SafeLatentDiffusion("a dog", "max"))
    # Of its strongest setting, which multiplies what is rounded a hundredfold.
    assert torch.allclose(one[0], strong[1], atol=1e-4), "a picture does not depend on its batch"


def test_what_is_asked_for():
    def of(**options):
        return asked_against(OmegaConf.create({"against": None, "negative": False, **options}))

    assert of() == [] and of(against="base") == [] and of(negative=True) == of(against="negative") == ["negative"]
    assert of(against=["filter", "sld"]) == ["filter", *(f"sld-{setting}" for setting in SETTINGS)]
    with pytest.raises(UserError, match="against=slt is unknown: base, negative, filter, sld"):
        of(against="slt")


@pytest.fixture(scope="module")
def checked_folder(tiny_folder, tmp_path_factory):
    """The tiny model with a safety checker of the real classes, which flags everything."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    folder = tmp_path_factory.mktemp("checked") / "model"
    shutil.copytree(tiny_folder, folder)
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config={**common, "image_size": 16, "patch_size": 8}, projection_dim=8)
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(-2.0)
    checker.save_pretrained(folder / "safety_checker")
    (folder / "feature_extractor").mkdir()
    look = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(look))
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_an_evaluation_with_all_of_them(checked_folder, tiny_folder, tmp_path):
    from esd.erasing.edit import Edit, save_edit
    from esd.evaluate.evaluation import evaluate
    from esd.evaluate.generation import read_picture
    from esd.models import load
    from esd.protocols.prompts import Prompts

    model = load(str(tiny_folder), "tiny")
    tensors = {name: p.detach() for name, p in model.denoiser.named_parameters() if ".attn2." in name}
    save_edit(tmp_path / "edit.safetensors", Edit(tensors, {"concept": ["pizza"], "base_hash": model.base_hash}))
    (tmp_path / "prompts.csv").write_text("prompt,evaluation_seed\na pizza,3\na cat,4\n")
    cfg = OmegaConf.create(
        {
            "sampling_steps": 2, "sampler": "own", "batch": 2, "devices": 1, "accelerator": "cpu", "precision": "32-true",
            "protocol": {},
            "out": str(tmp_path / "out"), "model": {"name": "tiny", "path": str(checked_folder), "dtype": "auto"},
        }
    )  # fmt: skip
    found = variants_of([str(tmp_path)], [], ["negative", "filter", "sld-weak", "sld-max"])
    metrics, folder = evaluate(cfg, Prompts(str(tmp_path / "prompts.csv"), 3.0, None), found, "typed")
    results = {result["title"]: result for result in metrics["results"].values()}
    kinds = ["negative prompt", "filter", "safe latent diffusion, weak", "safe latent diffusion, max"]
    assert list(results)[1:] == kinds
    moved = {title: result["edit"]["pixels"]["mean"] for title, result in results.items() if title in kinds}
    assert all(mean > 0 for title, mean in moved.items() if "weak" not in title), (
        "the weakest may find nothing to do in two steps"
    )
    black = [read_picture(path) for path in (folder / found[2].name).glob("*.png")]
    assert len(black) == 2 and all(picture.max() == 0 for picture in black) and results["filter"]["black"] == {"all": [2, 2]}
    cfg.model.path = str(tiny_folder)
    with pytest.raises(UserError, match="tiny has no safety checker"):
        evaluate(cfg, Prompts(str(tmp_path / "prompts.csv"), 3.0, None), found, "typed")


def test_the_embedded_filter_flags_what_its_judge_takes_for_the_concept_and_black_is_nothing(tmp_path):
    from esd import models
    from esd.emoji.judge import SOMETHING_ELSE, load_judge
    from esd.evaluate.filters import count_black, write_filtered
    from esd.metrics.filters import emoji_filter
    from esd.sample.pictures import save_picture, to_image

    model = models.load(None, "emoji")
    rows = [Row("erased", "a pizza", 3), Row("kept", "a cat", 2)]
    drawn = sample(model, model.denoiser, [row.prompt for row in rows], [3, 2], steps=12, guidance=4.0)
    for row, picture in zip(rows, drawn, strict=True):
        save_picture(to_image(picture), tmp_path / "base" / row.file)
    write_filtered(rows, tmp_path / "base", tmp_path / "filter", emoji_filter(["pizza"]))
    assert count_black(rows, tmp_path / "filter") == {"erased": [1, 1], "kept": [0, 1]}
    assert load_judge()(torch.zeros(1, 3, 64, 64))[0].argmax(1).item() == SOMETHING_ELSE


def test_the_bench_trains_an_erased_model_again():
    import copy

    from esd import models
    from esd.bench.against import train_again

    model = models.load(None, "emoji")
    again = copy.deepcopy(model.denoiser)
    train_again(model, again, "pizza", steps=1)
    before = dict(model.denoiser.named_parameters())
    assert any(not (tensor == before[name]).all() for name, tensor in again.named_parameters())
