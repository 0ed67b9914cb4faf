import errno

import pytest
import torch
from safetensors.torch import save_file

from esd import UserError
from esd.erasing.edit import Edit, apply_edit, read_edit, save_edit
from esd.files import atomic_write
from esd.models.hashes import fingerprint


@pytest.fixture
def edit(tiny):
    names = [name for name, _ in tiny.denoiser.named_parameters() if ".attn2." in name]
    state = tiny.denoiser.state_dict()
    return Edit({name: state[name] + 1 for name in names}, {"concept": ["pizza 🍕"], "eta": 1.0})


def test_an_edit_survives_the_disk_and_can_be_undone(tiny, edit, tmp_path):
    save_edit(tmp_path / "edit.safetensors", edit)
    again = read_edit(tmp_path)
    assert again.record == edit.record and again.tensors.keys() == edit.tensors.keys()
    before = fingerprint(tiny.denoiser)
    replaced = apply_edit(tiny.denoiser, again)
    state = tiny.denoiser.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in edit.tensors.items())
    assert fingerprint(tiny.denoiser) != before
    apply_edit(tiny.denoiser, Edit(replaced))
    assert fingerprint(tiny.denoiser) == before


def test_the_authors_file_loads(tiny, edit, tmp_path):
    """Their script writes the same tensors under the same names, and no metadata."""
    save_file(edit.tensors, tmp_path / "theirs.safetensors")
    theirs = read_edit(tmp_path / "theirs.safetensors")
    assert theirs.record == {}
    apply_edit(tiny.denoiser, theirs)


def test_a_wrong_edit_changes_nothing(tiny, edit):
    before = fingerprint(tiny.denoiser)
    name = next(iter(edit.tensors))
    for wrong, said in (
        ({**edit.tensors, "nonsense.weight": torch.ones(1)}, "nonsense.weight is no weight"),
        ({**edit.tensors, name: torch.ones(3, 3)}, r"is \(3, 3\), this model's"),
        ({}, "no tensors"),
    ):
        with pytest.raises(UserError, match=said):
            apply_edit(tiny.denoiser, Edit(wrong))
    assert fingerprint(tiny.denoiser) == before


@pytest.mark.parametrize("damage", ["missing", "pickle", "cut", "empty", "text"])
def test_what_is_no_edit_is_refused_in_one_line(edit, tmp_path, damage):
    path = tmp_path / "edit.safetensors"
    save_edit(path, edit)
    if damage == "missing":
        path.unlink()
    elif damage == "pickle":
        path = path.with_suffix(".pt")
        torch.save(edit.tensors, path)
    else:
        path.write_bytes({"cut": path.read_bytes()[:-100], "empty": b"", "text": b"hello " * 50}[damage])
    with pytest.raises(UserError) as caught:
        read_edit(path)
    assert "\n" not in str(caught.value)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    with pytest.raises(UserError, match="no space left"), atomic_write(path) as temporary:
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
