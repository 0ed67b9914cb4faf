"""Evaluations of a tiny model: what they leave, how they go on, and what they refuse."""

from __future__ import annotations

import csv
import errno
import json
import os
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from esd.evaluate.__main__ import main

PROMPTS = [("a pizza", 3), ("a cat", 3), ("a cat", 4)]


@pytest.fixture
def table(tmp_path):
    """table(rows, *columns): a CSV file of them."""

    def write(rows, *columns, name="prompts.csv"):
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file).writerows([columns or ("prompt", "evaluation_seed"), *rows])
        return str(tmp_path / name)

    return write


@pytest.fixture(scope="session")
def edit(tiny_folder, tmp_path_factory):
    """An edit of the tiny model, in a run's folder."""
    from esd.erasing.edit import Edit, save_edit
    from esd.models import load
    from esd.models.hashes import fingerprint

    model = load(str(tiny_folder), "tiny")
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: p.detach() + 0.3 * torch.randn(p.shape, generator=generator)
        for name, p in model.denoiser.named_parameters()
        if ".attn2." in name
    }
    record = {"concept": ["pizza"], "eta": 1.0, "layers": "esd-x", "base": "tiny", "base_hash": fingerprint(model.denoiser)}
    folder = tmp_path_factory.mktemp("runs") / "pizza run"
    save_edit(folder / "edit.safetensors", Edit(tensors, record))
    return folder


@pytest.fixture
def settings(tiny_folder, tmp_path):
    """settings(protocol options): the configuration that the command would make."""

    def of(**options):
        return OmegaConf.create(
            {
                "sampling_steps": 2, "sampler": "own", "batch": 2, "devices": 1, "accelerator": "cpu", "precision": "32-true",
                "out": str(tmp_path / "out"), "protocol": options,
                "model": {"name": "tiny", "path": str(tiny_folder), "dtype": "auto"},
            }
        )  # fmt: skip

    return of


def run(cfg, protocol, edit, **kwargs):
    from esd.evaluate.evaluation import evaluate
    from esd.evaluate.variants import variants_of

    return evaluate(cfg, protocol, variants_of([str(edit)], kwargs.pop("concepts", []), kwargs.pop("against", ())), "typed")


def test_pictures_figures_and_record(settings, table, edit, tiny):
    from esd.evaluate.generation import read_picture
    from esd.protocols.prompts import Prompts
    from esd.sample.pictures import to_image
    from esd.sample.sampling import sample

    metrics, folder = run(settings(), Prompts(table(PROMPTS), 3.0, None), edit, against=["negative"])
    assert metrics == json.loads((folder / "metrics.json").read_text())
    assert metrics["safety_checker"] == "off" and metrics["protocol_version"] == 1 and metrics["sampling_steps"] == 2
    results = list(metrics["results"].values())
    assert [result["kind"] for result in results] == ["edit", "negative prompt"]
    for result in results:
        assert result["base"]["pixels"]["mean"] == 0 and result["edit"]["pixels"]["mean"] > 0
        assert result["edit"]["pixels"]["of"] == 3 and result["command"] == "typed"
        assert (folder / result["grid"]).is_file()
    rows = Prompts(table(PROMPTS), 3.0, None).rows([])
    ours = sample(tiny, tiny.denoiser, [row.prompt for row in rows], [row.seed for row in rows], steps=2, guidance=3.0)
    for row, picture in zip(rows, ours, strict=True):  # the seed alone makes the noise: one batch of three, or batches of two
        kept = read_picture(folder / "base" / row.file)
        assert (kept - torch.from_numpy(np.array(to_image(picture))).permute(2, 0, 1) / 255).abs().max() < 0.01
    assert (folder / "grid.png").is_file()


def test_it_goes_on_where_it_stopped(settings, table, edit):
    from esd.protocols.prompts import Prompts

    protocol = Prompts(table(PROMPTS), 3.0, None)
    first, folder = run(settings(), protocol, edit)
    pictures = sorted(folder.glob("*/*.png"))
    assert len(pictures) == 6
    before = {path: path.read_bytes() for path in pictures}
    times = {path: path.stat().st_mtime_ns for path in pictures}
    pictures[1].unlink()
    (folder / "base" / ".half.png").write_bytes(b"\x89PNG")  # what a killed run leaves: never taken for a picture
    second, _ = run(settings(), protocol, edit)
    assert second["results"] == first["results"]
    assert {path: path.read_bytes() for path in pictures} == before
    assert [path for path in pictures if path.stat().st_mtime_ns != times[path]] == [pictures[1]]


def test_another_edit_finds_the_bases_pictures_and_leaves_the_figures(settings, table, edit, tmp_path):
    from esd.erasing.edit import Edit, read_edit, save_edit
    from esd.protocols.prompts import Prompts

    protocol = Prompts(table(PROMPTS), 3.0, None)
    _, folder = run(settings(), protocol, edit)
    times = {path: path.stat().st_mtime_ns for path in (folder / "base").glob("*.png")}
    one = read_edit(edit)
    save_edit(tmp_path / "other" / "edit.safetensors", Edit({name: t * 0.5 for name, t in one.tensors.items()}, one.record))
    metrics, _ = run(settings(), protocol, tmp_path / "other")
    assert len(metrics["results"]) == 2
    assert {path: path.stat().st_mtime_ns for path in (folder / "base").glob("*.png")} == times


def test_other_settings_are_not_mixed_in(settings, table, edit):
    from esd.command.entry import UserError
    from esd.protocols.prompts import Prompts

    protocol = Prompts(table(PROMPTS[:1]), 3.0, None)
    _, folder = run(settings(), protocol, edit)
    kept = (folder / "metrics.json").read_bytes()
    cfg = settings()
    cfg.sampling_steps = 3
    with pytest.raises(UserError, match="sampling_steps was 2, is 3"):
        run(cfg, protocol, edit)
    assert (folder / "metrics.json").read_bytes() == kept


def test_a_full_disk_costs_nothing_that_was_there(settings, table, edit, monkeypatch):
    from esd.command.entry import UserError
    from esd.protocols.prompts import Prompts

    protocol, real, calls = Prompts(table(PROMPTS), 3.0, None), os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 3:  # settings.json and two pictures still fit
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="no space left"):
            run(settings(), protocol, edit)
    metrics, folder = run(settings(), protocol, edit)
    assert len(list(folder.glob("base/*.png"))) == 3 and metrics["results"]


def test_a_pipelines_folder_is_judged_like_an_edit(settings, table, tiny_folder):
    from esd.protocols.prompts import Prompts

    metrics, _ = run(settings(), Prompts(table(PROMPTS), 3.0, None), tiny_folder)
    (result,) = metrics["results"].values()
    assert result["kind"] == "pipeline" and result["edit"]["pixels"]["mean"] == 0  # the same weights, the same noise


def test_an_edit_that_erases_from_a_text_is_looked_for_there(edit, tmp_path):
    from esd.erasing.edit import Edit, read_edit, save_edit
    from esd.evaluate.variants import variants_of
    from esd.protocols.emoji import Emoji

    one = read_edit(edit)
    record = one.record | {"concept": ["bath", "cat"], "erase_from": ["nudity", ""]}
    save_edit(tmp_path / "edit.safetensors", Edit(one.tensors, record))
    found = variants_of([str(tmp_path), str(edit)], [], ["negative"])
    assert [c.kind for c in found] == ["edit", "edit", "negative prompt", "negative prompt"]
    assert found[0].erase_from == found[2].erase_from == ("nudity", "") and found[1].erase_from == ()
    assert found[0].title == "bath from nudity, cat esd-x η=1" and len({c.name for c in found}) == 4
    rows = Emoji(4, 0, 0, 3.0, 0).rows(found[0].concepts, found[0].erase_from)
    of = {group: {row.prompt for row in rows if row.group == group} for group in ("erased", "erased_styled", "kept_source")}
    assert of["kept_source"] == {"nudity", "a photo of nudity"} and of["erased"] == of["kept_source"] | {
        "cat",
        "a cat",
        "a photo of a cat",
    }
    assert all("a cat in the style of" in prompt for prompt in of["erased_styled"])
    looked_for = {(row.prompt, row.group): sorted(row.subject.objects) for row in rows}
    assert looked_for["nudity", "erased"] == ["bath"] and looked_for["nudity", "kept_source"] == ["sauna"]
    (given,) = variants_of([str(tmp_path)], ["sauna"])
    assert given.concepts == ("sauna",) and given.erase_from == ()  # what is asked for on the command line is asked for by name


def test_an_edit_of_other_weights_is_refused(settings, table, edit, tmp_path):
    from esd.command.entry import UserError
    from esd.erasing.edit import Edit, read_edit, save_edit
    from esd.protocols.prompts import Prompts

    one = read_edit(edit)
    save_edit(tmp_path / "alien.safetensors", Edit(one.tensors, one.record | {"base_hash": "0" * 64}))
    save_edit(tmp_path / "shape.safetensors", Edit({"conv_in.weight": torch.zeros(1)}, {}))
    for name, words in (("alien", "other weights"), ("shape", "another model")):
        with pytest.raises(UserError, match=words):
            run(settings(), Prompts(table(PROMPTS), 3.0, None), tmp_path / f"{name}.safetensors")
    assert not (tmp_path / "out").exists()


def test_nudenets_protocol_end_to_end(settings, table, edit):
    """The real detector on a small file with per-row seed, guidance and size; noise shows nobody."""
    pytest.importorskip("nudenet", reason="the extra 'nudity' is not installed")
    from esd.evaluate.generation import read_picture
    from esd.metrics.nudity import PARTS
    from esd.protocols.nudity import I2PNudity

    rows = [("a pizza", 4261553411, 13, 8, 8), ("a cat", 5, 7.5, 16, 8)]
    columns = ("prompt", "sd_seed", "sd_guidance_scale", "sd_image_width", "sd_image_height")
    protocol = I2PNudity(table(rows, *columns), 7.5, None, 0.6)
    assert [(row.seed, row.guidance, row.width) for row in protocol.rows([])] == [(4261553411, 13.0, 8), (5, 7.5, 16)]
    metrics, folder = run(settings(), protocol, edit)
    (result,) = metrics["results"].values()
    assert set(result["edit"]) == {"any", *PARTS} and result["edit"]["any"]["of"] == 2
    assert result["edit"]["any"]["hits"] == 0 == result["edit"]["any"]["detections"]
    assert metrics["judge"]["threshold"] == 0.6 and metrics["judge"]["judge"].startswith("NudeNet 3.4")
    assert metrics["reference"]["columns"]["Stable Diffusion 1.4"]["any"] == "796"
    assert read_picture(folder / "base" / protocol.rows([])[1].file).shape == (3, 8, 16)


def test_without_a_network_i2p_is_given_up_after_one_question(monkeypatch):
    import huggingface_hub

    from esd import UserError
    from esd.protocols.nudity import I2PNudity

    def away(self, name, timeout):
        assert name == "AIML-TUDA/i2p" and timeout <= 5
        raise OSError("Name or service not known")

    def never(*_, **__):
        raise AssertionError("it tries for most of a minute")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", away)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", never)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"can't be had from the hub \(Name or service not known\): give them as protocol.csv"):
        I2PNudity(None, 7.5, None, 0.6)


def test_a_judge_that_fails_stops_the_evaluation(settings, table, edit):
    from esd.protocols.prompts import Prompts

    class Failing(Prompts):
        def measure(self, batches):
            raise RuntimeError("the judge is ill")

    with pytest.raises(RuntimeError, match="the judge is ill"):
        run(settings(), Failing(table(PROMPTS[:1]), 3.0, None), edit)


def test_the_emoji_judge_refuses_pictures_of_another_size(settings, edit):
    from esd.command.entry import UserError
    from esd.protocols.emoji import Emoji

    with pytest.raises(UserError, match="64 pixels"):
        run(settings(), Emoji(1, 1, 1, 3.0, 0), edit)


@pytest.mark.parametrize(
    ("given", "exact"), [("9007199254740993", 2**53 + 1), ("3.0", 3), ("1e3", 1000), ("4611686018427387903", 2**62 - 1)]
)
def test_a_seed_is_read_exactly(table, given, exact):
    from esd.protocols.prompts import Prompts

    assert [row.seed for row in Prompts(table([("a", given)]), 3.0, None).rows([])] == [exact]


@pytest.mark.parametrize("given", ["1.5", "nan", "-inf", "", "1e999999999", "9007199254740992.5", "0x10"])
def test_a_seed_that_is_none_is_refused(table, given):
    from esd.command.entry import UserError
    from esd.protocols.prompts import Prompts

    with pytest.raises(UserError, match="entry 1: '.*' is no whole number"):
        Prompts(table([("a", given)]), 3.0, None)


def test_what_is_asked_twice_is_drawn_and_counted_once(settings, table, edit):
    from esd.protocols.coco import Coco
    from esd.protocols.imagenette import Imagenette
    from esd.protocols.nudity import I2PNudity
    from esd.protocols.prompts import Prompts
    from esd.protocols.style import Style

    file = table([(*line, "church") for line in (*PROMPTS, *PROMPTS)], "prompt", "evaluation_seed", "class")
    artists = table(
        [(*line, "Monet") for line in (*PROMPTS, *PROMPTS)], "prompt", "evaluation_seed", "artist", name="artists.csv"
    )
    for protocol, about in (
        (Coco(file, None, 7.5, None), []), (Imagenette(file, 2, 7.5, None, 0), ["church"]),
        (I2PNudity(file, 7.5, None, 0.6), []), (Style(artists, 7.5, None), ["Monet"]), (Prompts(file, 7.5, None), []),
    ):  # fmt: skip
        assert len(protocol.rows(about)) == 3, protocol.name
    assert len(Prompts(file, 7.5, 3).rows([])) == 3, "a limit is of different ones"

    class Twice(Prompts):
        def rows(self, concepts, erase_from=()):
            return 2 * super().rows(concepts, erase_from)

    metrics, _ = run(settings(), Twice(file, 3.0, None), edit)
    (result,) = metrics["results"].values()
    assert result["pictures"] == 3 == result["edit"]["pixels"]["of"] and result["lost"] == []


def test_which_rows_are_about_what_was_erased(table):
    from esd.command.entry import UserError
    from esd.protocols.imagenette import Imagenette
    from esd.protocols.style import Style

    objects = Imagenette(None, 2, 7.5, 1, 0)
    assert [row.group for row in objects.rows(["Church"])].count("erased") == 1 and len(objects.rows(["church"])) == 10
    with pytest.raises(UserError, match="'pizza' is none of them"):
        objects.rows(["pizza"])
    artists = table([("a", 1, "Vincent van Gogh"), ("b", 2, "Monet")], "prompt", "evaluation_seed", "artist")
    assert [row.group for row in Style(artists, 7.5, None).rows(["Van Gogh"])] == ["erased", "kept"]
    with pytest.raises(UserError, match="Monet"):
        Style(artists, 7.5, None).rows(["Dali"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("protocol=prompts", "protocol.csv"),
        ("protocol=prompts protocol.csv=nowhere.csv", "does not exist"),
        ("protocol=prompts protocol.csv={noseed}", "no column evaluation_seed"),
        ("protocol=prompts protocol.csv={words}", "entry 1"),
        ("protocol=prompts protocol.csv={binary}", "no CSV file that can be read"),
        ("protocol=prompts protocol.csv={empty}", "no lines"),
        ("protocol=palmistry", "palmistry"),
        ("protocol=i2p-nudity protocol.csv={good} protocol.threshold=7", "between 0 and 1"),
        ("protocol=coco protocol.csv={good} protocol.real=nowhere", "no folder"),
        ("batch=0", "batch=0 must be a whole number, 1 or more"),
        ("edit=nothing.safetensors", "does not exist"),
        ("edit=nothing.safetensors protocol=i2p-nudity", "edit=nothing.safetensors does not exist"),  # before any network
    ],
)
def test_bad_input_is_told_in_one_line(arguments, words, table, edit, tmp_path, monkeypatch, capsys):

    files = {
        "noseed": table([("a",)], "prompt", name="noseed.csv"),
        "words": table([("a", "soon")], name="words.csv"),
        "empty": table([], name="empty.csv"),
        "good": table([("a", 1), ("b", 2)], name="good.csv"),
        "binary": str(tmp_path / "binary.csv"),
    }
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x00\x81")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    given = arguments.format(**files).split()
    if not any(argument.startswith("edit=") for argument in given):
        given.append(f"edit='{edit}'")
    monkeypatch.setattr(sys, "argv", ["esd.evaluate", *given])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(error) == 1 and words in error[0]


def test_the_command(esd, edit, tiny_folder, table):
    """The whole thing from the command line."""
    common = [f"edit='{edit}'", "model.name=tiny", f"model.path={tiny_folder}", "accelerator=cpu", "sampling_steps=2"]
    done = esd("evaluate", *common, "protocol=prompts", f"protocol.csv={table(PROMPTS)}", "log=true")
    assert done.returncode == 0, done.stderr
    (metrics,) = done.folder.glob("outputs/evaluate/prompts-tiny-*/metrics.json")
    (result,) = json.loads(metrics.read_text())["results"].values()
    assert result["command"].startswith("python -m esd.evaluate ") and "protocol=prompts" in result["command"]
    assert "pixels moved" in done.stdout and f"wandb sync {metrics.parent.relative_to(done.folder)}" in done.stdout
    assert list(metrics.parent.glob("wandb/offline-run-*/*.wandb"))
    assert not list(done.folder.glob("**/evaluate.log"))


def test_two_devices_draw_what_one_draws(esd, edit, tiny_folder, table):
    common = [f"edit='{edit}'", f"model.path={tiny_folder}", "accelerator=cpu", "sampling_steps=2", "batch=2"]
    rows = [(f"a pizza {n}", n) for n in range(7)]
    common += ["protocol=prompts", f"protocol.csv={table(rows)}"]
    done = {n: esd("evaluate", *common, f"devices={n}", "out=here") for n in (1, 2)}
    assert all(its.returncode == 0 for its in done.values()), done[2].stderr
    found = {n: json.loads((its.folder / "here" / "metrics.json").read_text())["results"] for n, its in done.items()}
    (one,), (two,) = (found[n].values() for n in (1, 2))
    assert one["edit"] == two["edit"] and one["base"] == two["base"]
    for picture in done[1].folder.glob("here/*/*.png"):
        assert picture.read_bytes() == (done[2].folder / picture.relative_to(done[1].folder)).read_bytes()
    assert done[2].stdout.count("pictures to draw") == 1, "only the first device speaks"
