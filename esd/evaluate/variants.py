"""What is compared with the base model: edits, whole pipelines, and the base model with a negative prompt."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from esd import UserError, models
from esd.command.checks import require_one_of, texts
from esd.erasing.edit import Edit, apply_edit, read_edit
from esd.files import slug
from esd.metrics.tables import concept_names
from esd.models.family import Model
from esd.sample.sld import SETTINGS, SafeLatentDiffusion

KINDS = {"negative": "negative prompt", "filter": "filter", "sld": "safe latent diffusion"}  # beside the base model's weights


@dataclass(frozen=True)
class Variant:
    """kind: base, edit, pipeline, or one of KINDS. name: its folder, unique to its weights. hash: of its weights."""

    kind: str
    name: str
    hash: str
    concepts: tuple[str, ...] = ()
    erase_from: tuple[str, ...] = ()  # one for each concept, "" the null prompt; none: the null prompt for all
    path: str = ""
    record: dict = field(default_factory=dict, hash=False)
    allow_pickle: bool = False

    @property
    def title(self) -> str:
        """A few words for people."""
        if self.kind == "safe latent diffusion":
            return f"{self.kind}, {self.record['setting']}"
        if self.kind != "edit" or not self.record:
            return self.kind if self.kind != "pipeline" else Path(self.path).name
        about = [
            concept_names(self.concepts, self.erase_from),
            str(self.record.get("layers", "")),
            "LoRA" if self.record.get("lora") else "",
            f"η={self.record.get('eta', 1):g}",
        ]
        return " ".join(filter(None, about))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def edit_variant(path: str, concepts: Sequence[str], allow_pickle: bool) -> Variant:
    """A file or a run's folder; what was erased, and from what, is in its record unless concepts are given."""
    edit = read_edit(path, allow_pickle)
    file = Path(path).expanduser()
    file = file / "edit.safetensors" if file.is_dir() else file
    name = slug(file.parent.resolve().name if file.name == "edit.safetensors" else file.stem)
    value = file_hash(file)
    recorded = tuple(edit.record.get("concept", ()))
    sources = () if concepts else tuple(edit.record.get("erase_from", ()))
    sources = sources if any(sources) and len(sources) == len(recorded) else ()
    return Variant(
        "edit", f"{name}-{value[:8]}", value, tuple(concepts) or recorded, sources, str(path), edit.record, allow_pickle
    )


def pipeline_variant(path: str, concepts: Sequence[str]) -> Variant:
    """A diffusers pipeline's folder. Its hash is over its weight files."""
    folder = models.folder_of(path)
    whole = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        whole.update(file_hash(file).encode())
    value = whole.hexdigest()
    return Variant("pipeline", f"{slug(folder.resolve().name)}-{value[:8]}", value, tuple(concepts), path=path)


AGAINST = ("base", "negative", "filter", "sld", *(f"sld-{setting}" for setting in SETTINGS))


def asked_against(cfg: DictConfig) -> list[str]:
    """What the edits are compared with beside the base model, which always is there. Raises UserError for what is unknown."""
    asked = texts(cfg.against, "against") if cfg.get("against") is not None else []
    for name in asked:
        require_one_of(name, "against", AGAINST)
    if cfg.get("negative"):
        asked.append("negative")
    every = [f"sld-{setting}" for setting in SETTINGS]
    spelt = [one for name in asked if name != "base" for one in (every if name == "sld" else [name])]
    return list(dict.fromkeys(spelt))


def variants_of(
    paths: Sequence[str], concepts: Sequence[str], against: Sequence[str] = (), allow_pickle: bool = False
) -> list[Variant]:
    """All that was asked for, each once; every set of concepts with each means that is asked for beside the edits."""
    found = [
        pipeline_variant(path, concepts)
        if (Path(path).expanduser() / "model_index.json").is_file()
        else edit_variant(path, concepts, allow_pickle)
        for path in paths
    ]
    for about, sources in dict.fromkeys((variant.concepts, variant.erase_from) for variant in found) if against else ():
        if not about:
            raise UserError(f"against={against[0]} needs the erased concept: the edit does not say, so give concept=…")
        value = hashlib.sha256(", ".join(about + sources).encode()).hexdigest()
        for name in against:
            means, _, setting = name.partition("-")
            record = {"setting": setting} if setting else {}
            found.append(Variant(KINDS[means], f"{name}-{slug(about)}-{value[:8]}", value, about, sources, record=record))
    return list({variant.name: variant for variant in found}.values())


def means_of(variant: Variant) -> dict:
    """What sample() is to be told beside the weights."""
    about = ", ".join(variant.concepts)
    if variant.kind == "negative prompt":
        return {"negative": about}
    if variant.kind == "safe latent diffusion":
        return {"safe": SafeLatentDiffusion(about, variant.record["setting"])}
    return {}


def check_base(model: Model, base_hash: str, variant: Variant) -> None:
    """Raises UserError for an edit that was made for another model, before anything is drawn with it."""
    if variant.kind != "edit":
        return
    made_for = variant.record.get("base_hash")
    if made_for and made_for != base_hash:
        raise UserError(
            f"edit={variant.path} was made for other weights than model={model.name} has "
            f"({variant.record.get('base')}, {made_for[:8]}, not {base_hash[:8]}): name its model with model=… model.path=…"
        )
    with weights_of(model, variant):
        pass


@contextlib.contextmanager
def weights_of(model: Model, variant: Variant, dtype: str = "auto") -> Iterator[tuple[Model, nn.Module]]:
    """(model, denoiser) to draw the variant's pictures with; the base model is itself again afterwards.

    dtype: of a whole pipeline's weights, as esd.models.load has it.
    """
    if variant.kind == "pipeline":
        other = models.load(variant.path, variant.name, dtype)
        yield other, other.denoiser
    elif variant.kind == "edit":
        replaced = apply_edit(model.denoiser, read_edit(variant.path, variant.allow_pickle))
        try:
            yield model, model.denoiser
        finally:
            apply_edit(model.denoiser, Edit(replaced))
    else:
        yield model, model.denoiser
