"""The results page is what its command writes from the files beside it, and says what has changed since."""

import json
import re

import pytest
from tiny import ROOT

from esd import UserError
from esd.bench import gallery
from esd.bench.page import page, read_results
from esd.report.result import code_of, file_hash, weights_hash, write_result

GALLERY = ROOT / "outputs/gallery"


def result(folder, name="objects", **changed):
    """A result file; these entries of it are others."""
    facts = {"title": name, "text": "A text.", "command": "python -m esd.studies objects", "columns": ["a", "b"]}
    write_result(name, **facts, rows=[["1 | 2", 3.5]], makers=["esd/studies"], folder=folder)
    found = json.loads((folder / f"{name}.json").read_text()) | changed
    (folder / f"{name}.json").write_text(json.dumps(found))
    return found


def test_the_page_is_what_its_command_writes():
    assert (GALLERY / "README.md").read_text(encoding="utf-8") == page(), "run python -m esd.bench.page and commit the page"


def test_every_number_on_the_page_is_in_a_file_and_every_picture_is_there():
    files = {path: path.read_text(encoding="utf-8") for path in GALLERY.glob("*.json") if path.name != "metrics.json"}
    known = set(re.findall(r"\d+(?:[.,]\d+)*", " ".join(files.values())))
    text = re.sub(r"\]\(#.*?\)|" + weights_hash(), "", page())  # without the anchors of the contents
    assert set(re.findall(r"\d+(?:[.,]\d+)*", text)) <= known
    assert all((GALLERY / file).is_file() for file in re.findall(r"!\[.*?\]\((.+?)\)", text))


def test_the_gallery_is_what_its_runs_measured():
    metrics = json.loads((GALLERY / "metrics.json").read_text())
    rows = [gallery.cells_of(options, metrics[name]) for name, options in gallery.CASES.items()]
    assert json.loads((GALLERY / "gallery.json").read_text())["rows"] == rows


def test_a_table_says_by_what_it_was_measured(tmp_path):
    found = result(tmp_path)
    text = page(tmp_path)
    assert "| a | b |\n| --- | --- |\n| 1 \\| 2 | 3.5 |\n" in text and "**Measured" not in text
    for fact in ("command", "machine", "date", "weights"):
        assert found[fact] in text
    assert found["weights"] == weights_hash() and found["code"] == code_of(["esd/studies"])
    assert found["code"]["files"]["esd/studies/study.py"] == file_hash(ROOT / "esd/studies/study.py")


def test_it_says_of_a_table_that_weights_or_code_are_others_by_now(tmp_path):
    result(tmp_path, weights="0" * 16)
    assert f"**Measured on other weights than the present ones ({weights_hash()}).**" in page(tmp_path)
    files = {"esd/studies/study.py": "0" * 16, "esd/gone.py": "1" * 16, "Makefile": file_hash(ROOT / "Makefile")}
    result(tmp_path, code={"commit": "abc1234", "files": files}, weights="none: random ones")
    text = page(tmp_path)
    assert "**Measured by other code than the present: what makes the table has changed since commit abc1234.**" in text
    assert "on other weights" not in text


def test_the_order_and_files_of_another_form(tmp_path):
    for name in ("zebra", "faults", "antelope", "objects-seed-1", "objects"):
        result(tmp_path, name)
    (tmp_path / "metrics.json").write_text("{}")  # the gallery's own, from which gallery.json is made
    assert list(read_results(tmp_path)) == ["objects", "objects-seed-1", "faults", "antelope", "zebra"]
    for changed, said in (({"code": "abc1234"}, "commit, files"), ({"rows": [["1"]]}, "2 columns and a row of 1")):
        result(tmp_path, **changed)
        with pytest.raises(UserError, match=said):
            page(tmp_path)
    (tmp_path / "objects.json").write_text('{"title": "x"}')
    with pytest.raises(UserError, match="has no text"):
        page(tmp_path)
