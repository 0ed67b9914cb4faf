"""The judges, on pictures whose answer mathematics or a known classifier gives."""

from __future__ import annotations

import io
import math
from statistics import NormalDist

import pytest
import torch
from torch import nn

from esd.emoji.judge import OBJECT_LABELS, STYLE_LABELS
from esd.emoji.subject import Subject
from esd.metrics.counts import bootstrap, format_figure, format_interval, mean_figure, rate_figure, wilson
from esd.metrics.emoji import Seen
from esd.metrics.nudity import EXPOSED, PARTS, Nudity
from esd.metrics.objects import IMAGENETTE, Classified
from esd.metrics.paired import PairedDistance
from esd.metrics.quality import Pooled, clip_score


@pytest.mark.parametrize(("hits", "of"), [(0, 7), (1, 48), (24, 48), (48, 48)])
def test_wilsons_ends_are_where_the_score_test_just_rejects(hits, of):
    """Wilson's interval is the set of p with |hits/of − p| ≤ z·√(p(1−p)/of): at its ends the two sides are equal."""
    z = NormalDist().inv_cdf(0.975)
    for p in wilson(hits, of, z):
        assert abs(hits / of - p) == pytest.approx(z * math.sqrt(p * (1 - p) / of), abs=1e-12)


def test_nothing_asked_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    assert (
        rate_figure(0, 0)["rate"] is None
        and format_figure(rate_figure(0, 0)) == "not asked"
        and format_interval(rate_figure(0, 0)) == ""
    )
    assert mean_figure([]) == {"mean": None, "of": 0, "interval": None}


def test_the_bootstraps_interval():
    assert bootstrap([0.25] * 9) == (0.25, 0.25)  # no spread, no width
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()
    low, high = bootstrap(values)
    half = 1.96 * torch.tensor(values).std().item() / math.sqrt(400)
    assert high - low == pytest.approx(2 * half, rel=0.1)  # the normal interval, which it estimates
    assert bootstrap(values) == (low, high)  # the same values, the same interval


def test_figures_in_words():
    assert format_figure(rate_figure(1, 48)) == "2.1 % (1 of 48)" and format_interval(rate_figure(0, 48)) == "0.0–7.4 %"
    assert format_figure(mean_figure([0.5, 0.5])) == "0.5" and format_interval(mean_figure([0.5, 0.5])) == "0.5–0.5"


def test_paired_distance():
    images = torch.rand(3, 3, 4, 4)
    pixels, features = PairedDistance(), PairedDistance(lambda pictures: pictures.flatten(1))
    for metric in (pixels, features):
        metric.update(images, images)
        assert metric.compute() == 0  # exactly: no rounding is taken for damage
        metric.reset()
    pixels.update(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4))
    pixels.update(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5))
    assert pixels.distances().tolist() == [1.0, 0.5] and pixels.compute() == 0.75
    side = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(2, 2, 1, 1)
    features.update(side[:1], side[1:])
    assert features.compute() == pytest.approx(1)  # at right angles
    features.reset()
    features.update(side[:1], -3 * side[:1])
    assert features.compute() == pytest.approx(2)  # opposite, whatever their length


class FixedJudge(nn.Module):
    """Sees what the first pixel says: the object and the style of that number."""

    def forward(self, images):
        numbers = images[:, 0, 0, 0].mul(255).round().long()
        return torch.eye(len(OBJECT_LABELS))[numbers], torch.eye(len(STYLE_LABELS))[numbers % len(STYLE_LABELS)]


def test_seen_counts_objects_and_styles():
    pizza = OBJECT_LABELS.index("pizza")
    images = torch.zeros(2, 3, 64, 64)
    images[0] = pizza / 255
    images[1] = (len(OBJECT_LABELS) - 1) / 255  # something else
    metric = Seen(FixedJudge())
    metric.update(images, [Subject(frozenset(["pizza"]))] * 2)
    assert (metric.hits, metric.of, metric.compute()) == (1, 2, 0.5)
    metric.reset()
    right, wrong = STYLE_LABELS[pizza % 4], STYLE_LABELS[(pizza + 1) % 4]
    metric.update(images[[0, 0]], [Subject(frozenset(["pizza"]), frozenset([style])) for style in (right, wrong)])
    assert metric.hits == 1  # both must hold


def test_nudity_counts_pictures_and_detections_under_the_old_names():
    answers = iter(
        [
            [{"class": "FEMALE_BREAST_EXPOSED", "score": 0.9}, {"class": "FEMALE_BREAST_EXPOSED", "score": 0.7}],
            [{"class": "FEET_EXPOSED", "score": 0.6}, {"class": "BELLY_EXPOSED", "score": 0.59}],
            [{"class": "FEMALE_BREAST_COVERED", "score": 0.9}, {"class": "FACE_MALE", "score": 0.9}],
        ]
    )
    metric = Nudity(0.6, lambda picture: next(answers))
    metric.update(torch.rand(3, 3, 8, 8))
    seen = {name: int(count) for name, count in metric.compute().items() if count}
    assert seen == {"any": 2, "EXPOSED_BREAST_F": 1, "EXPOSED_FEET": 1}
    assert dict(zip(PARTS, metric.detections.tolist(), strict=True))["EXPOSED_BREAST_F"] == 2
    assert metric.of == 3


def test_a_detector_that_fails_is_an_error_and_not_a_picture_without_nudity():
    def broken(picture):
        raise RuntimeError("no session")

    metric = Nudity(0.6, broken)
    with pytest.raises(RuntimeError, match="no session"):
        metric.update(torch.rand(1, 3, 8, 8))
    assert metric.of == 0


def test_nudenet_itself(tmp_path):
    """The real detector: its labels are those that are mapped, and an array is read as the file of it is."""
    nudenet = pytest.importorskip("nudenet", reason="the extra 'nudity' is not installed")
    from PIL import Image

    labels = nudenet.nudenet.__dict__["__labels"]
    assert {label for label in labels if label.endswith("_EXPOSED")} == set(EXPOSED)
    detector = nudenet.NudeDetector()
    fed = []
    session = detector.onnx_session

    class Spy:
        def run(self, names, inputs):
            fed.append(inputs)
            return session.run(names, inputs)

    detector.onnx_session = Spy()
    image = torch.randint(0, 256, (3, 64, 48), generator=torch.Generator().manual_seed(0)).float() / 255
    Nudity(0.6, detector.detect).update(image[None])
    Image.fromarray(image.mul(255).byte().permute(1, 2, 0).numpy()).save(tmp_path / "same.png")
    detector.detect(str(tmp_path / "same.png"))
    (ours,), (theirs,) = fed[0].values(), fed[1].values()
    assert (ours == theirs).all()


def test_classified_wants_the_top_class():
    class Fixed(nn.Module):
        def forward(self, images):
            return torch.eye(1000)[images[:, 0, 0, 0].long()]

    metric = Classified(Fixed())
    metric.update(torch.tensor([497.0, 217.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4), ["church", "church"])
    assert metric.compute() == 0.5 and len(IMAGENETTE) == 10


def test_clip_score_with_transformers_5():
    """torchmetrics reads tensors where transformers 5 gives objects: a tiny CLIP goes all the way through."""
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 16, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1},
        vision_config=small | {"image_size": 8, "patch_size": 4}, projection_dim=4,
    )  # fmt: skip

    def processor(text=None, images=None, **_):
        if images is not None:
            return {"pixel_values": torch.stack(images).float() / 255}
        ids = torch.tensor([[0, 5, 1]] * len(text))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    clip = CLIPModel(config).eval()
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        score = clip_score(lambda: (clip, processor))(image, "a pizza")
        one = clip.get_image_features(image[None].float() / 255).pooler_output
        other = clip.get_text_features(torch.tensor([[0, 5, 1]]), torch.ones(1, 3)).pooler_output
    assert score == pytest.approx(max(0, 100 * torch.cosine_similarity(one, other).item()), abs=1e-3)
    assert Pooled(clip).get_image_features(image[None].float()).shape == (1, 4)


class FirstPixels(nn.Module):
    """Features whose distribution is known: the first pixels."""

    num_features = 4

    def forward(self, images):
        return images.float().flatten(1)[:, :4].contiguous()


def test_fid_of_a_shift_is_its_square_and_of_the_same_nothing():
    from esd.metrics.quality import fid, kid

    images = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    for shift in (0.0, 0.4):  # equal covariances leave the means' distance: 4 features, each shifted
        metric = fid(FirstPixels())
        metric.update(images, real=True)
        metric.update(images + shift, real=False)
        assert metric.compute() == pytest.approx(4 * shift**2, abs=0.02)
    metric = kid(8, FirstPixels())
    metric.update(images, real=True)
    metric.update(images + 0.4, real=False)
    assert metric.compute()[0] > 0.1


@pytest.mark.parametrize("judge", ["lpips", "fid", "clip_score"])
def test_a_judge_that_cant_be_had_is_told_in_one_line(judge, monkeypatch, tmp_path):
    from esd.command.entry import UserError
    from esd.metrics import quality

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_network)
    monkeypatch.setattr("transformers.CLIPModel.from_pretrained", no_network)
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(UserError, match="can't be had .*judges") as told:
        getattr(quality, judge)()
    assert "\n" not in str(told.value)


def test_variants_stand_side_by_side_in_eighty_columns():
    from rich.console import Console

    from esd.metrics.counts import mean_figure
    from esd.metrics.tables import figures_tables, published_figures
    from esd.protocols.emoji import Emoji
    from esd.protocols.nudity import I2PNudity

    def result(title, **more):
        base = {"erased": rate_figure(47, 48), "kept": rate_figure(330, 340), "kept_distance": mean_figure([0.1, 0.2])} | more
        return {"title": title, "base": base, "edit": {**base, "erased": rate_figure(3, 48)}}

    def printed(*results, width=80):
        console = Console(width=width, file=io.StringIO())
        tables = figures_tables(Emoji, results, width)
        for table in tables:
            console.print(table)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width and "…" not in console.file.getvalue()
        return len(tables), lines

    count, lines = printed(result("pizza esd-x η=1"), result("negative prompt"))
    assert count == 1 and "pizza esd-x η=1" in lines[0] and "negative prompt" in lines[0]
    (seen,) = [line for line in lines if line.startswith("concept seen, asked by")]
    assert seen.count("6.2 % (3 of 48)") == 2 and seen.count("97.9 % (47 of 48)") == 1  # the base stands there once
    assert sum(line.count("2.1–16.8 %") for line in lines) == 2
    assert printed(result("a"), result("b", erased=rate_figure(1, 2)))[0] == 2  # other pictures were asked for
    assert printed(*(result(f"edit number {n} of them all") for n in range(7)))[0] == 4
    assert printed(*(result(f"edit number {n} of them all") for n in range(7)), width=200)[0] == 1
    assert "Stable Diffusion 1.4 796 pictures with an exposed part" in published_figures(I2PNudity)
    assert published_figures(Emoji) is None
