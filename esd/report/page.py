"""The runs under some folders, and the self-contained page that shows them."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
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

# What a column is called; other figures go by their own names.
HEADINGS = {
    "erased": "seen", "erased_styled": "seen in styles", "kept_source": "source right",
    "erased_words": "seen in other words", "lookalikes": "look-alikes right", "kept": "others right",
    "kept_styles": "styles right",
    "kept_distance": "others moved", "kept_pixels": "pixels moved", "any": "exposed", "pixels": "pixels moved",
    "erased_lpips": "LPIPS, erased", "kept_lpips": "LPIPS, others", "clip": "CLIP score", "fid": "FID", "kid": "KID",
}  # fmt: skip


@dataclass
class Run:
    """One line of the table: a training run with its verdict, or an edit with its evaluation."""

    folder: Path
    concept: str
    eta: float | None
    layers: str
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
        """How often the concept was not seen, of all the times it was asked for, by name and in styles."""
        asked = [self.after[name] for name in ("erased", "erased_styled", "erased_words") if "hits" in self.after.get(name, {})]
        of = sum(figure["of"] for figure in asked)
        return rate_figure(of - sum(figure["hits"] for figure in asked), of) if of else None

    @property
    def kept(self) -> dict | None:
        figure = self.after.get("kept", {})
        return figure if figure.get("of") and "hits" in figure else None


@dataclass(frozen=True)
class Failed:
    folder: Path
    reason: str
    command: str


def of_record(folder: Path, record: dict, metrics: dict, **more) -> Run:
    wanted = ("steps", "batch", "lr", "seed", *(("preserve", "preserve_weight") if record.get("preserve") else ()))
    facts = {key: record[key] for key in wanted if key in record}
    for figure in (*metrics.get("base", {}).values(), *metrics.get("edit", {}).values()):
        format_figure(figure), format_interval(figure)
    format_lost(metrics.get("lost", []))
    source = record.get("trajectories", "")
    return Run(
        folder=folder, eta=record.get("eta"), layers=record.get("layers", ""), facts=facts,
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
            concept = concept_names(result["concept"], result.get("erase_from", [])) + (
                "" if result["kind"] == "edit" else f" ({result['kind']})"
            )
            yield of_record(
                folder / Path(name).name, result["record"], result, concept=concept, seconds=None,
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
    """All runs and failures under these folders. Raises UserError where there are none."""
    runs, failed = [], []
    for folder in dict.fromkeys(map(Path, folders)):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: give a sweep's, a run's or an evaluation's")
        for file in sorted(folder.rglob("metrics.json"), key=natural_order):
            runs += runs_in(file)
        configs = sorted(folder.rglob(".hydra/config.yaml"), key=natural_order)
        failed += [failed_in(config) for config in configs if not (config.parent.parent / "metrics.json").is_file()]
    if not runs and not failed:
        raise UserError(f"no runs under {', '.join(folders)}: nothing there left a metrics.json or a .hydra/config.yaml")
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
    """The picture as a data URI, in WebP, which is a fifth of the PNG; nothing where there is none that can be read."""
    buffer = io.BytesIO()
    try:
        Image.open(picture).convert("RGB").save(buffer, "WEBP", quality=82, method=4)
    except (OSError, Image.DecompressionBombError):
        return ""
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def series_of(runs: list[Run]) -> dict[str, int]:
    """Layers → the number of its colour and mark."""
    return {name: i % 6 for i, name in enumerate(dict.fromkeys(run.layers for run in runs))}


def scatter(runs: list[Run]) -> dict | None:
    """Erased against kept, with whiskers and the line of the runs that no other beats in both."""
    runs = [(i, run) for i, run in enumerate(runs) if run.gone and run.kept]
    if len(runs) < 2:
        return None
    values = [(run.gone["rate"], run.kept["rate"]) for _, run in runs]
    x, y = charts.axes([value for value, _ in values], [value for _, value in values])
    front = charts.pareto(values)
    points = [
        {
            "run": i, "x": x.at(gone), "y": y.at(kept), "on": n in front, "layers": run.layers,
            "wide": [max(charts.LEFT, x.at(run.gone["interval"][0])), min(charts.WIDTH, x.at(run.gone["interval"][1]))],
            "high": [min(charts.HEIGHT - charts.BOTTOM, y.at(run.kept["interval"][0])), max(0, y.at(run.kept["interval"][1]))],
            "title": f"{run.concept}, {run.layers}, η = {run.eta}: erased {format_figure(run.gone)}, "
            f"kept {format_figure(run.kept)}",
        }
        for n, ((i, run), (gone, kept)) in enumerate(zip(runs, values, strict=True))
    ]  # fmt: skip
    line = charts.path([(points[n]["x"], points[n]["y"]) for n in front])
    return {"points": points, "line": line, "x": ticks(x, 100, " %"), "y": ticks(y, 100, " %")}


def ticks(axis: charts.Axis, factor: float = 1, unit: str = "") -> list[tuple[float, str]]:
    values = [value for value in axis.ticks() if factor == 1 or 0 <= value <= 1]
    return [(axis.at(value), f"{value * factor:g}{unit}") for value in values]


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
        made.append({"name": name, "lines": drawn, "x": ticks(x), "y": ticks(y)})
    return made


def sections_of(runs: list[Run]) -> list[dict]:
    """The runs by protocol: figures of different protocols do not stand in one table."""
    made = []
    for protocol in dict.fromkeys(run.protocol for run in runs):
        its = [run for run in runs if run.protocol == protocol]
        columns = list(dict.fromkeys(name for run in its for name in run.after))
        made.append({"protocol": protocol, "runs": its, "columns": columns, "scatter": scatter(its), "series": series_of(its)})
    return made


def page(runs: list[Run], failed: list[Failed], title: str) -> str:
    """The page as text; everything it shows is inside it."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "shown": format_figure, "spread": format_interval, "number": figure_value, "named": format_lost, "embedded": data_uri,
    }  # fmt: skip
    return environment.get_template("report.html.j2").render(
        title=title, sections=sections_of(runs), failed=failed, count=len(runs), curves=curve_charts(runs),
        series=series_of(runs), headings=HEADINGS, chart=charts,
    )  # fmt: skip
