"""What is compared with the base model: edits, whole pipelines, and the base model with a negative prompt."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from esd import edits, models
from esd.command import Mistake, slug
from esd.models.family import Model
from esd.tables import named


@dataclass(frozen=True)
class Candidate:
    """kind: base, edit, pipeline or negative prompt. name: its folder, unique to its weights. hash: of its weights."""

    kind: str
    name: str
    hash: str
    concepts: tuple[str, ...] = ()
    erase_from: tuple[str, ...] = ()  # one for each concept, "" the null prompt; none: the null prompt for all
    path: str = ""
    record: dict = field(default_factory=dict, hash=False)

    @property
    def title(self) -> str:
        """A few words for people."""
        if self.kind != "edit" or not self.record:
            return self.kind if self.kind != "pipeline" else Path(self.path).name
        about = [named(self.concepts, self.erase_from), str(self.record.get("layers", "")), f"η={self.record.get('eta', 1):g}"]
        return " ".join(filter(None, about))


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_edit(path: str, concepts: Sequence[str]) -> Candidate:
    """A file or a run's folder; what was erased, and from what, is in its record unless concepts are given. Raises Mistake."""
    edit = edits.read_edit(path)
    file = Path(path).expanduser()
    file = file / "edit.safetensors" if file.is_dir() else file
    name = slug(file.parent.resolve().name if file.name == "edit.safetensors" else file.stem)
    value = digest(file)
    recorded = tuple(edit.record.get("concept", ()))
    sources = () if concepts else tuple(edit.record.get("erase_from", ()))
    sources = sources if any(sources) and len(sources) == len(recorded) else ()
    return Candidate("edit", f"{name}-{value[:8]}", value, tuple(concepts) or recorded, sources, str(path), edit.record)


def of_pipeline(path: str, concepts: Sequence[str]) -> Candidate:
    """A diffusers pipeline's folder. Its hash is over its weight files."""
    folder = models.folder_of(path)
    whole = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        whole.update(digest(file).encode())
    value = whole.hexdigest()
    return Candidate("pipeline", f"{slug(folder.resolve().name)}-{value[:8]}", value, tuple(concepts), path=path)


def listed(paths: Sequence[str], concepts: Sequence[str], negative: bool) -> list[Candidate]:
    """All that was asked for, each once; every set of concepts with its negative prompt where that is wanted."""
    found = [
        (of_pipeline if (Path(path).expanduser() / "model_index.json").is_file() else of_edit)(path, concepts) for path in paths
    ]
    for about, sources in dict.fromkeys((candidate.concepts, candidate.erase_from) for candidate in found) if negative else ():
        if not about:
            raise Mistake("negative=true needs the erased concept: the edit does not say, so give concept=…")
        value = hashlib.sha256(", ".join(about + sources).encode()).hexdigest()
        found.append(Candidate("negative prompt", f"negative-{slug(about)}-{value[:8]}", value, about, sources))
    return list({candidate.name: candidate for candidate in found}.values())


def check(model: Model, base_hash: str, candidate: Candidate) -> None:
    """Raises Mistake for an edit that was made for another model, before anything is drawn with it."""
    if candidate.kind != "edit":
        return
    made_for = candidate.record.get("base_hash")
    if made_for and made_for != base_hash:
        raise Mistake(
            f"edit={candidate.path} was made for other weights than model={model.name} has "
            f"({candidate.record.get('base')}, {made_for[:8]}, not {base_hash[:8]}): name its model with model=… model.path=…"
        )
    with worn(model, candidate):
        pass


@contextlib.contextmanager
def worn(model: Model, candidate: Candidate) -> Iterator[tuple[Model, nn.Module]]:
    """(model, denoiser) to draw the candidate's pictures with; the base model is itself again afterwards."""
    if candidate.kind == "pipeline":
        other = models.load(candidate.path, candidate.name)
        yield other, other.denoiser
    elif candidate.kind == "edit":
        replaced = edits.apply(model.denoiser, edits.read_edit(candidate.path))
        try:
            yield model, model.denoiser
        finally:
            edits.apply(model.denoiser, edits.Edit(replaced))
    else:
        yield model, model.denoiser
