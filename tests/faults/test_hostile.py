"""Files and words from people who mean harm: nothing in them runs, leaves the run's folder, or comes alive on a page."""

from __future__ import annotations

import html.parser
import json
import os
import pickle
import shutil

import pytest
import torch
from markdown_it import MarkdownIt
from safetensors.torch import load_file, save_file
from trials import run_folder

from esd.erasing.edit import Edit, read_edit, save_edit

SCRIPT = "<script>alert(1)</script>"
UNET = "unet/diffusion_pytorch_model"


class Bomb:
    """Whoever unpickles it makes a folder."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.fixture
def struck(tmp_path):
    """Where a bomb's folder would be; it must not be there at the end."""
    yield tmp_path / "struck"
    assert not (tmp_path / "struck").exists(), "something ran"


@pytest.fixture
def bomb(struck):
    """bomb(file): a pickle that strikes, in the file; torch=True: in torch's own format."""

    def write(file, in_torchs_format=False):
        file.parent.mkdir(parents=True, exist_ok=True)
        value = {"state_dict": Bomb(struck), "global_step": 1}
        torch.save(value, file) if in_torchs_format else file.write_bytes(pickle.dumps(value))
        return file

    return write


def one_line(done):
    said = done["err"].strip().splitlines()
    assert done["code"] == 2 and len(said) == 1, (done["code"], done["err"])
    return said[0]


@pytest.fixture
def small(tiny_folder):
    """The options of a run that takes a second."""
    return (f"model.path={tiny_folder}", "steps=2", "checkpoint_every=1", "sampling_steps=2", "batch=1", "evaluate=false",
            "logger=none")  # fmt: skip


def test_a_bomb_strikes_whoever_unpickles_it(bomb, struck, tmp_path):
    pickle.loads(bomb(tmp_path / "plain").read_bytes())
    assert struck.is_dir()
    struck.rmdir()
    torch.load(bomb(tmp_path / "torchs", True), weights_only=False)
    assert struck.is_dir()
    struck.rmdir()


@pytest.mark.parametrize("name", ["edit.pt", "edit.ckpt", "edit.bin", "edit.safetensors"])
def test_an_edit_that_is_a_pickle_does_not_run(server, bomb, tmp_path, tiny_folder, name):
    for n, in_torchs_format in enumerate((False, True)):
        file = bomb(tmp_path / str(n) / name, in_torchs_format)
        said = one_line(server.run(tmp_path, f"edit={file}", "prompt=a", command="sample"))
        assert ("damaged" if name.endswith(".safetensors") else "a pickle can run code") in said
        arguments = (f"edit={file}", "to=official", "allow_pickle=true", f"model.path={tiny_folder}")
        assert "damaged" in one_line(server.run(tmp_path, *arguments, command="export"))


def test_a_model_that_is_a_pickle_does_not_run(server, bomb, tmp_path, tiny_folder, small):
    assert "a pickle" in one_line(server.run(tmp_path, "concept=a", *small, f"model.path={bomb(tmp_path / 'm.ckpt', True)}"))
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    for file in list(folder.glob("*/*.safetensors")):
        bomb(file.with_suffix(".bin"), True)
        bomb(file.with_name("pytorch_model.bin"), True)
    assert server.run(tmp_path / "beside", "concept=a", *small, f"model.path={folder}")["code"] == 0  # and is not looked at
    for part in ("text_encoder", "unet"):
        for file in (folder / part).glob("*.safetensors"):
            file.unlink()
        assert f"{part} as pickles" in one_line(server.run(tmp_path, "concept=a", *small, f"model.path={folder}"))


def test_a_checkpoint_that_is_a_pickle_does_not_run(server, bomb, tmp_path, small):
    assert server.run(tmp_path, "concept=a", *small)["code"] == 0
    folder = run_folder(tmp_path)
    edit = (folder / "edit.safetensors").read_bytes()
    bomb(folder / "checkpoints" / "step=2.ckpt", True)
    bomb(folder / "checkpoints" / "step=1.ckpt")
    (folder / "metrics.json").unlink()  # else the run is finished, and nothing is read
    done = server.run(tmp_path, f"resume={folder}")
    assert done["code"] == 0 and done["steps"] == 2, "it begins anew, for there is none that can be read"
    assert (folder / "edit.safetensors").read_bytes() == edit


def test_a_cache_that_is_a_pickle_does_not_run(server, bomb, tmp_path, small):
    walks = ("trajectories=cache", "trajectories.walks=2", f"trajectories.folder={tmp_path / 'cache'}")
    assert server.run(tmp_path / "1", "concept=a", *small, *walks)["code"] == 0
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    walked = file.read_bytes()
    bomb(file)
    assert "damaged" in server.run(tmp_path, "--folder", str(tmp_path / "cache"), command="cache")["out"]
    assert server.run(tmp_path / "2", "concept=a", *small, *walks)["code"] == 0
    assert load_file(file).keys() == {"x_t", "eps_c", "eps_null"} and file.stat().st_size == len(walked)


def test_clearing_the_cache_leaves_other_files_alone(server, tmp_path):
    for name in ("edit.safetensors", "0123456789abcdef01234567.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    done = server.run(tmp_path, "clear", "--folder", str(tmp_path), command="cache")
    assert "removed 1 files" in done["out"] and (tmp_path / "edit.safetensors").is_file()


STRANGE = {  # what a model's folder may say of its parts
    "other code": {"unet": ["evil", "UNet"]},
    "a module beside": {"unet": ["../evil", "UNet"]},
    "the system's": {"unet": ["os", "system"]},
    "a pipeline of its own": {"_class_name": ["evil", "Pipeline"]},
    "a part outside": {"../outside": ["diffusers", "UNet2DConditionModel"]},
    "a part anywhere": {"/etc": ["diffusers", "UNet2DConditionModel"]},
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_model_names_no_code_and_no_place_of_its_own(server, struck, tmp_path, tiny_folder, small, what):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | STRANGE[what]))
    for place in (folder, folder / "unet", tmp_path):
        (place / "evil.py").write_text(f"import os\nos.mkdir({str(struck)!r})\nclass UNet: pass\nclass Pipeline: pass\n")
    shutil.copytree(folder / "unet", tmp_path / "outside")
    assert "model" in one_line(server.run(tmp_path, "concept=a", *small, f"model.path={folder}"))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_models_files_are_its_own(server, tmp_path, tiny_folder, small, part):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (file,) = (folder / part).glob("*.safetensors")
    names = list(load_file(file))
    file.rename(tmp_path / "outside.safetensors")
    (folder / part / "other.safetensors").write_bytes(b"")
    where = {"metadata": {}, "weight_map": dict.fromkeys(names, "../../outside.safetensors")}
    file.with_name(file.name + ".index.json").write_text(json.dumps(where))
    one_line(server.run(tmp_path, "concept=a", *small, f"model.path={folder}"))


NAMES = ["../../outside", "/tmp/outside", "x" * 5000, "🍕", "☕", "a\nb", "...", "~", "-m", "C:\\x", "${oc.env:HOME}", SCRIPT]


def test_no_word_leaves_the_runs_folder(server, tmp_path, tiny_folder, small):
    work = tmp_path / "a" / "b" / "c"
    listed = ",".join("'" + name.replace("\\", "\\\\").replace("${", "\\${") + "'" for name in NAMES)
    assert server.run(work, f"concept=[{listed}]", *small, "truncate=true")["code"] == 0
    assert server.run(work, f"concept={NAMES[0]}", *small, "steps=1", "truncate=true")["code"] == 0
    edit = run_folder(work)
    options = (f"edit={edit}", f"model.path={tiny_folder}")
    drawn = server.run(work, *options, f"prompt=[{listed}]", "count=1", "sampling_steps=1", command="sample")
    assert drawn["code"] == 0, drawn["err"]
    assert len(list(work.glob("outputs/sample/*/*/edit/*.png"))) == len(NAMES)
    exported = server.run(work, *options, "to=official", "model.name=../../outside", command="export")
    assert exported["code"] == 0, exported["err"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and [path.name for path in work.iterdir()] == ["outputs"]
    assert not list(tmp_path.rglob("*outside*/*outside*")) and max(len(path.name) for path in work.rglob("*")) < 100
    folders = list(work.glob("outputs/*/*/*"))
    assert len(folders) == 4 and all(folder.is_dir() and folder.name.isascii() for folder in folders)


def test_no_word_of_a_file_leaves_the_exports_folder(server, tmp_path, tiny_folder):
    weights = load_file(tiny_folder / f"{UNET}.safetensors")
    name = next(name for name in weights if "attn2" in name)
    concepts = ["../../outside", "/tmp/outside", "x" * 5000, "a\0b\n", ""]
    options = ("edit=edit.safetensors", f"model.path={tiny_folder}", "to=official")
    for concept in concepts:
        save_edit(tmp_path / "edit.safetensors", Edit({name: weights[name] + 1}, {"concept": [concept]}))
        done = server.run(tmp_path, *options, command="export")
        assert done["code"] == 0, done["err"]
    made = list(tmp_path.glob("outputs/export/*/*/*.safetensors"))
    assert len(made) == len(concepts) == len(list(tmp_path.rglob("*.safetensors"))) - 1
    half = {"record": json.dumps({"concept": ["half a character: \ud800"]})}
    save_file({name: weights[name]}, tmp_path / "edit.safetensors", half)
    assert "damaged" in one_line(server.run(tmp_path, *options, command="export"))


class Alive(html.parser.HTMLParser):
    """What is active on a page: scripts by their first words, event attributes, and addresses."""

    def __init__(self, page: str):
        super().__init__()
        self.scripts, self.events, self.addresses, self.inside = [], [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.inside = tag == "script"
        self.events += [name for name, _ in attributes if name.startswith("on")]
        named = [value for name, value in attributes if name in ("src", "href")]
        self.addresses += [value for value in named if not value.startswith(("#", "data:"))]

    def handle_data(self, data):
        if self.inside:
            self.scripts.append(data.strip()[:20])
            self.inside = False


HARM = f"x {SCRIPT} <img src=x onerror=alert(1)> [a](javascript:alert(1)) ![b](http://b.c/d) ` `` | \" ' \n\n# {SCRIPT}\n"


def test_reports_and_cards_say_what_people_typed_and_do_nothing_of_it(server, tmp_path, tiny_folder, small):
    assert server.run(tmp_path, f"concept={HARM}", *small, "truncate=true")["code"] == 0
    folder = run_folder(tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["record"]["concept"] == [HARM.strip()]
    count = {"hits": HARM, "of": 2, "rate": 0.5, "interval": [0.1, 0.9]}
    figures = {"base": {"kept": count, HARM: count}, "edit": {"kept": count, HARM: count}, "protocol": HARM}
    record = metrics["record"] | {"base": f"a/{HARM}", "layers": HARM, "command": HARM, "versions": {HARM: HARM}, "seed": HARM}
    record |= {"trajectories": HARM, "preserve": HARM, "lr": [HARM]}
    for name, its in (("a", metrics["record"]), ("b", record)):
        evil = tmp_path / "evil" / name
        (evil / ".hydra").mkdir(parents=True)
        (evil / "metrics.json").write_text(json.dumps(metrics | figures | {"record": its, "training_seconds": HARM}))
        save_edit(evil / "edit.safetensors", Edit(read_edit(folder).tensors, its))
    failed = tmp_path / "evil" / f"{SCRIPT.replace('/', '')}"
    (failed / ".hydra").mkdir(parents=True)
    (failed / ".hydra" / "config.yaml").touch()
    (failed / "error.txt").write_text(HARM)
    (failed / ".hydra" / "overrides.yaml").write_text(json.dumps([f"concept={HARM}"]))
    result = {"concept": [HARM], "kind": HARM, "record": record, "command": HARM, "grid": f"../../{folder.name}/grid.png"}
    elsewhere = {"results": {"../../x": result}}
    (tmp_path / "evil" / "c").mkdir()
    (tmp_path / "evil" / "c" / "metrics.json").write_text(json.dumps(figures | elsewhere))

    done = server.run(tmp_path, str(tmp_path / "evil"), command="report")
    assert done["code"] == 0, done["err"]
    page = (tmp_path / "evil" / "report.html").read_text()
    alive = Alive(page)
    assert alive.scripts == ["for (const table of "] and not alive.events and not alive.addresses
    assert page.count("&lt;script&gt;alert(1)") > 10

    for name in ("a", "b"):
        options = (f"edit={tmp_path / 'evil' / name}", f"model.path={tiny_folder}", "to=official", f"hydra.run.dir=card-{name}")
        done = server.run(tmp_path, *options, command="export")
        assert done["code"] == 0, done["err"]
        card = (tmp_path / f"card-{name}" / "README.md").read_text()
        _, head, body = card.split("---\n", 2)
        alive = Alive(MarkdownIt("commonmark").enable("table").render(body))
        assert not (alive.scripts or alive.events or alive.addresses), alive.__dict__
        assert card.count("alert(1)") > 3 and HARM.split()[1] not in head
