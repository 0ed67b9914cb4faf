"""The base model's pictures on disk: the same in every run, drawn once, never damaged, never too many."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from esd.protocols import Row, each_once, emoji, noise_seed
from esd.protocols.base_pictures import BasePictures, made_with

ROWS = [Row("kept", prompt, seed) for prompt in ("a cat", "an owl") for seed in (1, 2)]
OF = {"version": 1, "base": "0" * 64, "protocol": "test 1", "steps": 2, "precision": "torch.float32"}


class Painter:
    """Draws a picture of one colour, a function of the row, and counts."""

    def __init__(self):
        self.drawn = []

    def __call__(self, rows):
        self.drawn += rows
        shades = [int(row.file[-12:-4], 16) % 256 / 255 for row in rows]
        return torch.tensor(shades).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def test_a_noise_is_of_protocol_prompt_and_number_alone():
    assert noise_seed("emoji 3", "a cat", 0) == noise_seed("emoji 3", "a cat", 0) < 2**32
    others = [("emoji 4", "a cat", 0), ("emoji 3", "a fox", 0), ("emoji 3", "a cat", 1)]
    assert noise_seed("emoji 3", "a cat", 0) not in [noise_seed(*other) for other in others]
    lists = [emoji.rows(["pizza"], 24, 8, 1), emoji.rows(["cat", "bus"], 12, 8, 1), emoji.rows(["pizza"], 96, 24, 4)]
    few, _, many = ({row.file for row in rows} for rows in lists)
    assert few < many, "the short form's pictures are the long form's first"
    for rows in lists:
        assert len({row.seed for row in rows}) == len({row.file for row in rows}), "a noise of its own for every picture"
        assert each_once(rows) == rows
    assert {row.file for row in emoji.rows(["pizza"], 24, 8, 1, seed=1)}.isdisjoint(few)


def test_a_picture_is_drawn_once_whoever_asks(tmp_path):
    painter, store = Painter(), BasePictures(tmp_path)
    assert store.count(ROWS, OF) == 0
    first = store.get([*ROWS, ROWS[0]], OF, painter)
    assert store.count(ROWS, OF) == 4 and first.dtype == torch.uint8
    assert set(painter.drawn) == set(ROWS) and first.shape == (5, 3, 4, 4) and torch.equal(first[0], first[4])
    told = []
    more = Row("erased", "a fox", 3)
    again = BasePictures(tmp_path).get([more, *ROWS[:2]], OF, painter, told.append)
    assert painter.drawn[4:] == [more] and sum(told) == 2 and torch.equal(again[1:], first[:2])
    BasePictures(tmp_path).get(ROWS[:1], OF | {"steps": 3}, painter)
    assert painter.drawn[-1] == ROWS[0] and len(painter.drawn) == 6, "of other sampling they are others"


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_drawn_again(tmp_path, damage):
    painter = Painter()
    whole = BasePictures(tmp_path).get(ROWS, OF, painter)
    path = next(tmp_path.glob("*.safetensors"))
    lost = len(BasePictures(tmp_path).names(path))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-7] ^= 0x40
    path.write_bytes({"cut": content[: len(content) // 2], "flip": content, "empty": b""}[damage])
    for _ in range(2):
        assert torch.equal(BasePictures(tmp_path).get(ROWS, OF, painter), whole) and len(painter.drawn) == 4 + lost


def test_the_least_recently_used_go(tmp_path):
    painter = Painter()
    for n in range(6):
        BasePictures(tmp_path, limit=2e-6).get([Row("kept", f"a {n}", n)], OF, painter)
        time.sleep(0.01)
    files = list(tmp_path.glob("*.safetensors"))
    assert 1 <= len(files) < 6 and sum(path.stat().st_size for path in files) <= 2000
    BasePictures(tmp_path).get([Row("kept", "a 5", 5)], OF, painter)
    assert len(painter.drawn) == 6, "the last one is there still"


def test_where_nothing_can_be_kept_they_are_drawn_all_the_same(tmp_path):
    (tmp_path / "file").write_text("")
    painter = Painter()
    assert len(BasePictures(tmp_path / "file" / "pictures").get(ROWS, OF, painter)) == 4 == len(painter.drawn)


def test_what_another_user_keeps_is_read_and_left(tmp_path, monkeypatch):
    """Whose files may be read, and neither touched nor taken away. (The tests may run as root, who may do all.)"""
    painter = Painter()
    BasePictures(tmp_path).get(ROWS, OF, painter)

    def not_allowed(*args, **kwargs):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr("pathlib.Path.touch", not_allowed)
    monkeypatch.setattr("pathlib.Path.unlink", not_allowed)
    assert len(BasePictures(tmp_path, limit=0).get(ROWS, OF, painter)) == 4 == len(painter.drawn)
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(b"damaged")
    assert len(BasePictures(tmp_path).get(ROWS, OF, painter)) == 4 and len(painter.drawn) == 8


def slowly(folder: Path, out: Path) -> None:
    painter = Painter()

    def draw(rows):
        time.sleep(0.3)
        return painter(rows)

    BasePictures(folder).get(ROWS, OF, draw)
    out.write_text(str(len(painter.drawn)))


def test_of_several_processes_each_draws_a_share(tmp_path):
    context = multiprocessing.get_context("fork")
    outs = [tmp_path / f"{n}.txt" for n in range(3)]
    workers = [context.Process(target=slowly, args=(tmp_path / "pictures", out)) for out in outs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    drawn = [int(out.read_text()) for out in outs]
    assert sum(drawn) == len(ROWS) and max(drawn) < len(ROWS), "each picture once, by whoever is free"


def test_they_depend_on_all_weights_and_on_the_precision(tiny):
    def of():
        return made_with(tiny, "test 1", 2, torch.device("cpu"))

    before = of()
    assert before == of() and before["precision"] == "torch.float32"
    with torch.autocast("cpu", torch.bfloat16):
        assert of()["precision"] == "torch.bfloat16 mixed"
    with torch.no_grad():
        next(tiny.base.vae.parameters()).add_(1)
    changed = of()
    assert changed["base"] == before["base"] and changed["others"] != before["others"] and set(before["others"]) == {
        "text_encoder", "vae",
    }  # fmt: skip


def test_they_can_be_seen_and_cleared(tmp_path, monkeypatch, capsys):
    from esd.cache.__main__ import main

    BasePictures(tmp_path / "pictures").get(ROWS, OF, Painter())
    (tmp_path / "pictures" / f"{0:024x}.0.safetensors").write_bytes(b"x")
    files = len(list((tmp_path / "pictures").glob("*.safetensors")))
    monkeypatch.setattr("sys.argv", ["esd.cache", "--folder", str(tmp_path)])
    main()
    said = capsys.readouterr().out
    assert "test 1" in said and "damaged" in said and f"{files} files" in said
    monkeypatch.setattr("sys.argv", ["esd.cache", "clear", "--folder", str(tmp_path)])
    main()
    assert f"removed {files} files" in capsys.readouterr().out and not list((tmp_path / "pictures").iterdir())
