"""The model card beside an export: what was erased from what, how, what was measured, and whose licence holds."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from esd.metrics.counts import format_figure

USE = {
    "official": '```python\nfrom esd import load_edit\nload_edit(pipe, "{file}")\n```\n\nor, as in the authors\' scripts, '
    '`pipe.unet.load_state_dict(load_file("{file}"), strict=False)`.',
    "diffusers": "```python\nfrom diffusers import DiffusionPipeline\n\n"
    'pipe = DiffusionPipeline.from_pretrained("path/to/this/folder")\n```',
    "single-file": "Put `{file}` where A1111 or ComfyUI keep checkpoints. With diffusers, which needs the configurations "
    "beside it:\n\n"
    '```python\npipe = {pipeline}.from_single_file("{file}", config="{stem}")\n```',
    "lora": '```python\npipe.load_lora_weights("{file}")\n```\n\n'
    "ComfyUI and A1111 take a LoRA of Stable Diffusion 1, 2 and XL in kohya's names alone (`format=kohya`).",
}
NAMES = {
    "erased": "erased concept", "erased_styled": "erased concept in a style", "kept": "other objects", "kept_styles": "styles",
}  # fmt: skip


def card(record: dict, metrics: dict, facts: dict[str, str], to: str, file: str, pipeline: str) -> str:
    """Markdown. record: the edit's; metrics: the run's metrics.json or {}; facts: what the export has to say for itself."""
    base = str(record.get("base") or "not recorded")
    what = [
        f"{c} (from {f})" if f else c
        for c, f in zip(record.get("concept", ["not recorded"]), record.get("erase_from") or [""] * 99, strict=False)
    ]
    head = {"license": "other", "library_name": "diffusers", "pipeline_tag": "text-to-image"}
    head["tags"] = ["concept-erasure", "esd"]
    if base.count("/") == 1 and not base.startswith((".", "/", "~")) and not Path(base).exists():
        head["base_model"] = base
    solved = record.get("closed_form") or ""
    made = "Fine-tuned by ESD (Gandikota et al., Erasing Concepts from Diffusion Models, ICCV 2023)"
    if record.get("steps") == 0:
        made = "Solved in closed form (Gandikota et al., Unified Concept Editing in Diffusion Models, WACV 2024)"
    rows = {
        "Base model": base, "Base model's SHA-256": record.get("base_hash"), "Erased": ", ".join(what), "η": record.get("eta"),
        "Layers": record.get("layers"), "Start": solved and f"keys and values solved in closed form, μ = {solved}",
        "Steps × batch": _times(record, "steps", "batch"), "Learning rate": record.get("lr"),
        "Guidance of x_t": record.get("guidance"), "Seed": record.get("seed"),
        "Versions": ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items()), **facts,
    }  # fmt: skip
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    lines += [f"# {_markdown_text(base.split('/')[-1])} without {_markdown_text(', '.join(what))}", ""]
    lines += [f"{made} so that it answers the", "concept with its absence."]
    lines += ["Erasure is not proof: adversarial prompts bring part of an erased concept back.", ""]
    lines += [
        "| | |",
        "|---|---|",
        *(f"| {key} | {_markdown_text(value)} |" for key, value in rows.items() if value not in (None, "")),
    ]
    if record.get("command"):
        lines += [f"| Command | {_code(record['command'])} |"]
    lines += [""]
    lines += ["## Use", "", USE[to].format(file=file, stem=Path(file).stem, pipeline=pipeline), ""]
    lines += ["## Measured", "", *_measured(metrics), ""]
    if "attack" in metrics:
        said, how = metrics["attack"].get("headline"), str(metrics["attack"].get("command", ""))
        lines += [f"Under attack: {_markdown_text(said)}. By {_code(how)}", ""]
    lines += ["## Licence", ""]
    lines += [
        f"This is a derivative of {_markdown_text(base)}: its licence holds for this too, and what it asks of derivatives.",
        "",
    ]
    return "\n".join(lines)


def _times(record: dict, *names: str) -> str | None:
    return " × ".join(str(record[name]) for name in names) if all(name in record for name in names) else None


def _markdown_text(value: object) -> str:
    """What people and files from elsewhere say, as one line of text: no HTML, no links, and no end of a table's cell."""
    return re.sub(r"([\\`\[\]|])", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def _code(text: str) -> str:
    """The same as code, between more backticks in a row than it has itself."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {' '.join(text.split())} {fence}".replace("|", r"\|")


def _measured(metrics: dict) -> list[str]:
    if "edit" not in metrics:
        return ["Nothing was measured."]
    rows = [
        "| "
        + " | ".join(map(_markdown_text, (NAMES.get(group, group), *map(format_figure, (metrics["base"][group], after)))))
        + " |"
        for group, after in metrics["edit"].items()
        if isinstance(after, dict) and "of" in after and group in metrics.get("base", {})
    ]
    said = f"Protocol {_markdown_text(metrics.get('protocol'))}: pictures in which the judge saw it."
    return [said, "", "| | before | after |", "|---|---|---|", *rows]
