"""The verdict for any concept on any model: CLIP's judgement by known logits, on its real classes, and at the end of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from families import clip_tokenizer
from harness import Server

from esd import UserError
from esd.metrics.clip import REVISION, Clip, calibrated_margin, clip_folder, lead
from esd.protocols.concept import NAMES, SCENES, Concept

OPTIONS = {
    "pictures": 6, "kept": 10, "lookalikes": None, "lookalike_pictures": 2, "templates": [], "alternatives": [],
    "clip": "openai/clip-vit-large-patch14", "guidance": 7.5, "seed": 0,
}  # fmt: skip


def protocol(**options) -> Concept:
    return Concept(**{**OPTIONS, **options})


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """A CLIP of the real classes with small random weights."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    tokenizer, folder = clip_tokenizer(), tmp_path_factory.mktemp("clip")
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**common, "vocab_size": 54, "max_position_embeddings": 12, "bos_token_id": 52, "eos_token_id": 53}
    vision = {**common, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    look = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(look))
    return folder


def test_the_margin_is_the_one_that_tells_best():
    def margin(shows, other):
        return calibrated_margin(torch.tensor(shows), torch.tensor(other))

    assert margin([3.0, 5.0], [-2.0, 1.0]) == 2.0  # between them
    assert margin([3.0, 5.0, -9.0], [-2.0, 1.0]) == 2.0  # one that the base model failed to draw moves nothing
    assert margin([1.0, 2.0], [1.0, 2.0]) in (1.5,)  # no better than chance
    assert margin([], [1.0]) == margin([1.0], []) == 0.0  # nothing to fit it to
    assert lead(torch.tensor([5.0, 1.0]), torch.tensor([[4.0, 1.0], [2.0, 3.0]])).tolist() == [1.0, -2.0]


class Known:
    """A judge whose texts are directions of their own: the picture of direction i shows text i."""

    def __init__(self):
        self.known: dict[str, int] = {}

    def direction(self, text: str) -> int:
        bare = text.removeprefix("a picture of ").removeprefix("an image of ")
        return self.known.setdefault(bare, len(self.known))

    def texts(self, texts) -> torch.Tensor:
        return F.one_hot(torch.tensor([self.direction(text) for text in texts]), 400).float()

    def pictures_of(self, texts) -> torch.Tensor:
        return self.texts(texts)


def judged(rows, after: dict[str, str], **options):
    """Figures where the base model draws what each row asks for, and the edit what `after` says instead of a subject."""
    its = protocol(**options)
    its.judge = Known()
    before = [str(row.subject) for row in rows]
    now = [after.get(f"{row.group}:{row.subject}", str(row.subject)) for row in rows]
    return its.figures(rows, its.judge.pictures_of(now), its.judge.pictures_of(before))


def test_known_answers():
    rows = protocol(lookalikes=["Paul Gauguin"]).rows(["Van Gogh"])
    whole = judged(rows, {})
    assert whole["erased"]["rate"] == whole["erased_scene"]["rate"] == whole["kept"]["rate"] == whole["told"]["rate"] == 1
    assert whole["lookalikes"]["each"] == {"Paul Gauguin": [2, 2]} and whole["kept_distance"]["mean"] == 0
    now = {"erased:Van Gogh": "a beach", "erased_scene:Van Gogh": "Paul Gauguin", "lookalikes:Paul Gauguin": "Van Gogh"}
    gone = judged(rows, now)
    assert gone["erased"]["hits"] == gone["erased_scene"]["hits"] == gone["lookalikes"]["hits"] == 0
    assert gone["erased"]["of"] == 6 and gone["erased"]["interval"] == [0.0, 0.3903]  # Wilson's
    assert gone["kept"]["rate"] == 1 and gone["kept_clip"]["mean"] == 100 and gone["lookalikes_distance"]["mean"] == 1
    lost = judged(rows, {f"kept:{row.subject}": "noise" for row in rows if row.group == "kept"})
    assert lost["kept"]["hits"] <= 1 and lost["kept_clip"]["mean"] < 20 and lost["kept_distance"]["mean"] == 1
    assert lost["erased"]["rate"] == 1, "damage to the rest is no erasure"


def test_what_is_erased_from_a_text_is_looked_for_there_and_asked_for_by_its_own_name():
    rows = protocol().rows(["cowboy hat"], ["cowboy"])
    asked = {group: {row.prompt for row in rows if row.group == group} for group in ("erased", "kept_source", "by_name")}
    assert "a picture of cowboy" in asked["erased"] <= asked["kept_source"] and "cowboy hat" in asked["by_name"]
    assert {row.subject for row in rows if row.group == "erased"} == {"cowboy hat"}
    figures = judged(rows, {})  # here a picture asked for the cowboy shows, row by row, what the row looks for
    assert "each" not in figures["by_name"], "what goes of it is not lost"
    assert figures["by_name"]["rate"] == figures["kept_source"]["rate"] == 1
    figures = judged(rows, {"erased:cowboy hat": "cowboy", "erased_scene:cowboy hat": "cowboy"})
    assert figures["erased"]["hits"] == figures["erased_scene"]["hits"] == 0, "the cowboy alone is no hat"


def test_rows():
    rows = protocol(templates=["{}", "a painting by {}"], lookalikes="auto").rows(["Van Gogh", "car"])
    by = {group: [row for row in rows if row.group == group] for group in dict.fromkeys(row.group for row in rows)}
    assert {row.prompt for row in by["erased_templates"]} == {"a painting by Van Gogh", "a painting by car"}
    assert {row.prompt for row in by["erased"]} == {way.replace("{}", text) for way in NAMES for text in ("Van Gogh", "car")}
    assert len(by["erased_scene"]) == 12 and len(SCENES) == 6 and len({row.seed for row in rows}) == len(rows)
    alone = {row.file for row in protocol(lookalikes="auto").rows(["car"])}
    shared = {row.file for row in by["erased"] if "car" in row.prompt}
    assert shared and shared <= alone, "a prompt's pictures are the same, whatever else is asked for"
    assert len(by["kept"]) == len({row.prompt for row in by["kept"]}) == 10
    everything = protocol(kept=200).rows(["Van Gogh", "car"])
    kept = {row.prompt for row in everything if row.group == "kept"}
    assert "a photo of a car" not in kept and "a painting by Vincent van Gogh" not in kept and len(kept) == 138
    assert {row.subject for row in by["lookalikes"]} == {"Paul Gauguin", "Paul Signac", "Georges Seurat"}
    with pytest.raises(UserError, match="templates"):
        protocol(templates=["a painting"])


def test_the_real_classes_see_what_transformers_sees(clip):
    from transformers import AutoTokenizer, CLIPModel

    judge, model = Clip(clip_folder(str(clip))), CLIPModel.from_pretrained(clip).eval()
    pictures = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    tokens = AutoTokenizer.from_pretrained(clip)(["a cat", "dog"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens, pixel_values=(pictures - mean) / std).logits_per_image / model.logit_scale.exp()
    assert torch.allclose(judge.pictures(pictures) @ judge.texts(["a cat", "dog"]).T, logits, atol=1e-5)
    wide = judge.pictures(F.interpolate(pictures, size=(32, 48)))  # of a wide picture the middle is looked at
    assert wide.shape == (3, 8) and torch.allclose(wide.norm(dim=1), torch.ones(3))
    assert judge.texts(["a very long text " * 9]).shape == (1, 8)  # cut, not refused
    assert len(judge.record()["weights_sha256"]) == 64 and judge.record()["revision"] is None


def test_a_judge_that_cannot_be_had_is_one_line(tmp_path, clip, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"hf download openai/.*--local-dir models/.*protocol.clip=models/"):
        clip_folder("openai/clip-vit-large-patch14")
    with pytest.raises(UserError, match="has no config.json"):
        clip_folder(str(tmp_path))
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((clip / name).read_bytes()[:40])
    with pytest.raises(UserError, match="cannot be read"):
        Clip(clip_folder(str(tmp_path)))


@pytest.mark.run
def test_a_run_of_a_real_model_ends_with_a_verdict_or_says_how_to_come_by_one(tmp_path, tiny_folder, clip, monkeypatch):
    """Real runs of the commands: announced, drawn with no grid, unjudged without CLIP; judged later, by a small one."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))  # the client reads it once
    server = Server()
    try:
        options = (f"model.path={tiny_folder}", "model.name=tiny", "sampling_steps=4", "logger=none")
        trained = server.run(tmp_path, "concept=pizza", "steps=3", "batch=1", "grid=0", "preserve=auto", *options, watch=False)
        assert trained["code"] == 0, trained["err"]
        (folder,) = tmp_path.glob("outputs/train/*/*")
        assert not (folder / "grid.png").exists() and "grid.png" not in trained["out"]
        assert "Not judged: openai/clip-vit-large-patch14 is not on this machine" in trained["out"]
        assert "Time" in trained["out"] and "training" in trained["out"] and "judging" not in trained["out"]
        metrics = json.loads((folder / "metrics.json").read_text())
        assert "edit" not in metrics and "hf download" in metrics["not_judged"]
        again = server.run(tmp_path, f"resume={folder}", watch=False)
        assert "is finished; not judged: openai/clip" in again["out"] and again["out"].count("\n") == 1
        swept = server.run(tmp_path, "-m", "concept=pizza", "steps=1", "grid=0", "evaluate=false", *options, watch=False)
        assert swept["code"] == 0, swept["err"]
        (sweep,) = tmp_path.glob("outputs/multirun/*/*")

        small = ("protocol.pictures=3", "protocol.kept=4", "protocol.lookalikes=[taco]", "protocol.lookalike_pictures=1")
        judged = server.run(
            tmp_path, f"edit={folder}", *options[:2], "sampling_steps=2", "protocol=concept", f"protocol.clip={clip}",
            *small, command="evaluate", watch=False,
        )  # fmt: skip
        assert judged["code"] == 0, judged["err"]
        (file,) = tmp_path.glob("outputs/evaluate/*/metrics.json")
        (result,) = json.loads(file.read_text())["results"].values()
        assert result["edit"]["erased"]["of"] == 3 and result["edit"]["lookalikes"]["of"] == 1
        assert result["base"]["kept_distance"]["mean"] == 0 and "margin" in result["edit"]["told"]

        place = tmp_path / "hub" / "models--openai--clip-vit-large-patch14" / "snapshots" / REVISION
        shutil.copytree(clip, place)  # as it is once it is downloaded
        edit = (folder / "edit.safetensors").read_bytes()
        for asked, its in ((f"resume={folder}",), folder), (("-m", f"resume={sweep}", "evaluate=true"), sweep / "0-pizza"):
            later = server.run(tmp_path, *asked, watch=False)
            assert later["code"] == 0, later["err"]
            assert "concept seen, asked by name" in later["out"] and "judging" in later["out"]
            metrics = json.loads((its / "metrics.json").read_text())
            assert metrics["edit"]["erased"]["of"] == 12 and metrics["judge"]["revision"] == REVISION
            assert "not_judged" not in metrics
        assert (folder / "edit.safetensors").read_bytes() == edit
    finally:
        server.close()
