"""The runs under some folders, and the self-contained page that shows them."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader
from omegaconf import OmegaConf
from PIL import Image

from esd import UserError
from esd.command.words import command_line
from esd.files import read_json
from esd.metrics.counts import figure_value, format_figure, format_interval, format_lost, rate_figure
from esd.metrics.tables import concept_names
from esd.report import charts
from esd.report.attacks import Attacked, attack_charts

# What a column is called; other figures go by their own names.
HEADINGS = {
    "erased": "seen", "erased_styled": "seen in styles", "kept_source": "source right",
    "erased_words": "seen in other words", "lookalikes": "look-alikes right", "kept": "others right",
    "kept_styles": "styles right",
    "kept_distance": "others moved", "kept_pixels": "pixels moved", "any": "exposed", "pixels": "pixels moved",
    "erased_lpips": "LPIPS, erased", "kept_lpips": "LPIPS, others", "clip": "CLIP score", "fid": "FID", "kid": "KID",
}  # fmt: skip


def gone_in(figures: dict) -> dict | None:
    """How often the concept was not seen, of all the times it was asked for, by name and in styles."""
    asked = [figures[name] for name in ("erased", "erased_styled", "erased_words") if "hits" in figures.get(name, {})]
    of = sum(figure["of"] for figure in asked)
    return rate_figure(of - sum(figure["hits"] for figure in asked), of) if of else None


def kept_in(figures: dict) -> dict | None:
    """How often the other objects were right."""
    figure = figures.get("kept", {})
    return figure if figure.get("of") and "hits" in figure else None


@dataclass
class Run:
    """One line of the table: a training run with its verdict, or an edit with its evaluation."""

    folder: Path
    concept: str
    eta: float | None
    layers: str  # the rule; of what is no edit what it is: negative prompt, pipeline
    source: str
    seconds: float | None
    protocol: str
    before: dict
    after: dict
    command: str
    grid: Path
    facts: dict = field(default_factory=dict)
    lost: list[dict] = field(default_factory=list)  # of what is to be kept and is counted by name

    @property
    def gone(self) -> dict | None:
        return gone_in(self.after)

    @property
    def kept(self) -> dict | None:
        return kept_in(self.after)


@dataclass(frozen=True)
class Failed:
    folder: Path
    reason: str
    command: str


def of_record(folder: Path, record: dict, metrics: dict, kind: str = "edit", **more) -> Run:
    wanted = ("steps", "batch", "lr", "seed", *(("preserve", "preserve_weight") if record.get("preserve") else ()))
    facts = {key: record[key] for key in wanted if key in record}
    for figure in (*metrics.get("base", {}).values(), *metrics.get("edit", {}).values()):
        format_figure(figure), format_interval(figure)
    format_lost(metrics.get("lost", []))
    source = record.get("trajectories", "")
    return Run(
        folder=folder, eta=record.get("eta"), layers=record.get("layers", "") if kind == "edit" else kind, facts=facts,
        source=source.get("name", "") if isinstance(source, dict) else str(source),
        before=metrics.get("base", {}), after=metrics.get("edit", {}), lost=metrics.get("lost", []), **more,
    )  # fmt: skip


def runs_in(file: Path) -> Iterator[Run]:
    """The lines of one metrics.json: one of a training run, one for each edit of an evaluation. Raises UserError."""
    metrics = read_json(file)
    try:
        yield from lines_of(metrics, file.parent)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{file} is not as esd.train and esd.evaluate write it ({type(error).__name__}: {error})") from error


def lines_of(metrics: dict, folder: Path) -> Iterator[Run]:
    if "results" in metrics:
        for name, result in metrics["results"].items():
            concept = concept_names(result["concept"], result.get("erase_from", []))
            yield of_record(
                folder / Path(name).name, result["record"], result, concept=concept, seconds=None, kind=result["kind"],
                protocol=metrics["protocol"], command=result["command"], grid=folder / Path(result["grid"]).name,
            )  # fmt: skip
    elif "record" in metrics:
        record = metrics["record"]
        concept = concept_names(record.get("concept", []), record.get("erase_from", []))
        yield of_record(
            folder, record, metrics, concept=concept, seconds=metrics.get("training_seconds"),
            protocol=metrics.get("protocol", "none"), command=record.get("command", ""), grid=folder / "grid.png",
        )  # fmt: skip


def failed_in(config: Path) -> Failed:
    """A run that began and left no figures; why, where it was written down."""
    folder = config.parent.parent
    reason = folder / "error.txt"
    lines = reason.read_text(encoding="utf-8", errors="replace").splitlines() if reason.is_file() else []
    overrides = folder / ".hydra" / "overrides.yaml"
    try:
        task = OmegaConf.to_container(OmegaConf.load(overrides))
    except (OSError, yaml.YAMLError):  # killed while Hydra wrote it
        task = []
    command = command_line("esd.train", *task)
    return Failed(folder, lines[0] if lines else "it left no metrics.json: interrupted, or still running", command)


def natural_order(file: Path) -> list:
    """To sort by: run 2 of a sweep before run 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(file))]


def collect(folders: list[str]) -> tuple[list[Run], list[Failed]]:
    """All runs and failures under these folders."""
    runs, failed = [], []
    for folder in dict.fromkeys(map(Path, folders)):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: give a sweep's, a run's or an evaluation's")
        for file in sorted(folder.rglob("metrics.json"), key=natural_order):
            runs += runs_in(file)
        configs = sorted(folder.rglob(".hydra/config.yaml"), key=natural_order)
        failed += [failed_in(config) for config in configs if not (config.parent.parent / "metrics.json").is_file()]
    return runs, failed


def curves_of(run: Run) -> dict[str, list[tuple[float, float]]]:
    """What the run logged over its training, from its metrics.csv, by name: only what has two points or more."""
    file = run.folder / "metrics.csv"
    if not file.is_file():
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    with open(file, encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            for name, value in line.items():
                if value and name and name not in ("step", "epoch") and line.get("step"):
                    with contextlib.suppress(ValueError):  # the last line of a run that was killed
                        curves.setdefault(name, []).append((float(line["step"]), float(value)))
    wanted = [name for name in curves if name == "train/loss" or name.startswith(("erased/", "kept/"))]
    return {name: curves[name] for name in wanted if len(curves[name]) > 1}


def data_uri(picture: Path) -> str:
    """The picture as a data URI, in WebP, which is a fifth of the PNG; nothing where there is none that can be read.

    What is transparent stays so: a grid's margins are the page's, in the light and in the dark.
    """
    buffer = io.BytesIO()
    try:
        Image.open(picture).convert("RGBA").save(buffer, "WEBP", quality=82, method=4)
    except (OSError, Image.DecompressionBombError):
        return ""
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


RULES = (  # in the order of their colours, which are the same on every page
    "esd-x", "esd-u", "noxattn", "negative prompt", "esd-x-strict", "esd-all", "selfattn", "full", "notime", "pipeline",
    "xlayer", "selflayer", "kv",
)  # fmt: skip


def series_of(runs: list[Run | Attacked]) -> dict[str, int]:
    """Layers → the number of its colour: a rule's own; of rules that are not ours one that their name gives."""
    return {
        name: RULES.index(name) if name in RULES else zlib.crc32(name.encode()) % len(RULES)
        for name in dict.fromkeys(run.layers for run in runs)
    }


AXES = {"η": "eta", "layers": "layers", "steps": "steps", "lr": "lr", "batch": "batch", "preserve weight": "preserve_weight",
        "source of x_t": "source", "seed": "seed"}  # fmt: skip


def title_of(runs: list[Run], attacked: list[Attacked]) -> str:
    """What the page is about, in words: "pizza and cat erased, over η and layers, 25 November 2026"."""
    if not runs:
        return (
            f"{in_words(list(dict.fromkeys(its.concept for its in attacked)))} under attack" if attacked else "Nothing erased"
        )
    concepts = list(dict.fromkeys(run.concept or "a concept" for run in runs))
    named = in_words(concepts if len(concepts) <= 4 else [*concepts[:3], f"{len(concepts) - 3} more"])
    varied = [name for name, key in AXES.items() if len({str(getattr(run, key, run.facts.get(key))) for run in runs}) > 1]
    days = sorted({day for run in runs if (day := day_of(run.folder))})
    when = [f"{day.day} {day:%B %Y}" for day in dict.fromkeys((days[0], days[-1]))] if days else []
    over = [f"over {in_words(varied)}"] if varied else []
    return ", ".join([f"{named} erased", *over, *([" to ".join(when)] if when else [])])


def in_words(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def day_of(folder: Path) -> date | None:
    """The day in the folder's path; where there is none, that of its figures."""
    for part in reversed(folder.absolute().parts):
        with contextlib.suppress(ValueError):
            return date.fromisoformat(part)
    files = [file for file in (folder / "metrics.json", folder.parent / "metrics.json") if file.is_file()]
    return date.fromtimestamp(files[0].stat().st_mtime) if files else None


def scatter(runs: list[Run]) -> dict | None:
    """Erased against kept, with whiskers, the line of the runs that no other beats in both, and the base model."""
    runs = [(i, run) for i, run in enumerate(runs) if run.gone and run.kept]
    if len(runs) < 2:
        return None
    values = [(run.gone["rate"], run.kept["rate"]) for _, run in runs]
    bases = {(gone["rate"], kept["rate"]) for _, run in runs if (gone := gone_in(run.before)) and (kept := kept_in(run.before))}
    ends = [[end for _, run in runs for end in getattr(run, name)["interval"]] for name in ("gone", "kept")]
    x, y = charts.axes([*ends[0], *(gone for gone, _ in bases)], [*ends[1], *(kept for _, kept in bases)])
    front = charts.pareto(values)
    points = [
        {
            "run": i, "x": x.at(gone), "y": y.at(kept), "on": n in front, "layers": run.layers,
            "wide": [x.at(end) for end in run.gone["interval"]], "high": [y.at(end) for end in run.kept["interval"]],
            "title": f"{run.concept}, {run.layers}, η = {run.eta}: erased {format_figure(run.gone)}, "
            f"kept {format_figure(run.kept)}",
        }
        for n, ((i, run), (gone, kept)) in enumerate(zip(runs, values, strict=True))
    ]  # fmt: skip
    line = charts.path([(points[n]["x"], points[n]["y"]) for n in front])
    marks = [{"x": x.at(gone), "y": y.at(kept), "title": f"base model: not seen {100 * gone:.1f} %, right {100 * kept:.1f} %"}
             for gone, kept in sorted(bases)]  # fmt: skip
    return {"points": points, "bases": marks, "line": line, "x": charts.ticks(x, 100, " %"), "y": charts.ticks(y, 100, " %")}


def curve_charts(runs: list[Run]) -> list[dict]:
    """A chart for each thing that was logged over training, a line for each run."""
    found: dict[str, list[tuple[Run, list]]] = {}
    for run in runs:
        for name, points in curves_of(run).items():
            found.setdefault(name, []).append((run, charts.thin(points)))
    made = []
    for name, lines in sorted(found.items()):
        x, y = charts.axes([p[0] for _, points in lines for p in points], [p[1] for _, points in lines for p in points])
        drawn = [
            {"layers": run.layers, "title": f"{run.concept}, {run.layers}, η = {run.eta}",
             "path": charts.path([(x.at(a), y.at(b)) for a, b in points])}
            for run, points in lines
        ]  # fmt: skip
        made.append({"name": name, "lines": drawn, "x": charts.ticks(x), "y": charts.ticks(y)})
    return made


def sections_of(runs: list[Run]) -> list[dict]:
    """The runs by protocol: figures of different protocols do not stand in one table."""
    made = []
    for protocol in dict.fromkeys(run.protocol for run in runs):
        its = [run for run in runs if run.protocol == protocol]
        columns = list(dict.fromkeys(name for run in its for name in run.after))
        made.append({"protocol": protocol, "runs": its, "columns": columns, "scatter": scatter(its), "series": series_of(its)})
    return made


def page(runs: list[Run], failed: list[Failed], attacked: list[Attacked], folder: str) -> str:
    """The page as text; everything it shows is inside it."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "shown": format_figure, "spread": format_interval, "number": figure_value, "named": format_lost, "embedded": data_uri,
    }  # fmt: skip
    return environment.get_template("report.html.j2").render(
        title=title_of(runs, attacked), folder=folder, colours=len(RULES), sections=sections_of(runs), failed=failed,
        count=len(runs), curves=curve_charts(runs), attacked=attacked, attack_charts=attack_charts(attacked),
        series=series_of([*runs, *attacked]), headings=HEADINGS, chart=charts,
    )  # fmt: skip
