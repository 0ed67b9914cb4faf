"""What --help says: a command's options, as the comments in conf/ describe them, and the choices of its groups."""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from pathlib import Path

import yaml

OPTION = r"^(\w+): +(.*?)(?:\s+# (.*))?$"  # name: value   # what it is


def comments(file: Path) -> list[str]:
    """The lines of comment that a file begins with, but Hydra's own."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return lines


def options_of(file: Path) -> list[tuple[str, str, str]]:
    """(name, value, description) of every option that stands in a file, but Hydra's own; "" where there is no comment."""
    found: list[tuple[str, str, str]] = []
    text = re.sub(r"^(defaults|hydra):.*\n(?:(?:[ \t#-].*)?\n)*", "", file.read_text(encoding="utf-8"), flags=re.M)
    for line in text.splitlines():
        if option := re.match(OPTION, line):
            found.append((option[1], option[2], option[3] or ""))
        elif found and (more := re.match(r"^\s+# (.*)$", line)):  # a comment that takes more than a line
            found[-1] = (*found[-1][:2], f"{found[-1][2]} {more[1]}")
    return [option for option in found if not option[0].startswith("_")]


def groups_of(file: Path) -> dict[str, str]:
    """The groups that a configuration chooses from, with what it takes where nothing is said."""
    defaults = yaml.safe_load(file.read_text(encoding="utf-8")).get("defaults", [])
    pairs = [entry.popitem() for entry in defaults if isinstance(entry, dict)]
    pairs = [(group, ",".join(chosen) if isinstance(chosen, list) else chosen) for group, chosen in pairs]
    return {group: chosen or "" for group, chosen in pairs if not group.startswith("override ")}


def choices_of(folder: Path) -> dict[str, Path]:
    """name → file of what a group may be, those in folders by their path: emoji/esd-u."""
    found = {str(file.relative_to(folder).with_suffix("")): file for file in folder.rglob("*.yaml")}
    return dict(sorted(found.items(), key=lambda entry: (entry[0].count("/"), entry[0])))


def description(file: Path) -> str:
    """What a choice is: the text behind the command it begins with, or its comment's first sentence."""
    lines = comments(file)
    texts = [re.split(r" {3,}", line)[1] for line in lines if line.startswith("python -m") and "   " in line]
    plain = " ".join(line for line in lines if not line.startswith("python -m"))
    return texts[0] if texts else first_sentence(plain)


def described(name: str, value: str, text: str, width: int, indent: int = 2) -> str:
    """name, value and text in three columns; two where no value is to be said."""
    value = {"???": "needed", "null": "", '""': ""}.get(value, "the model's" if value.startswith("${model.") else value)
    value = "" if value.startswith("${") else value
    head = f"{' ' * indent}{name:{24 - indent}} {value:12} " if value or indent == 2 else f"{' ' * indent}{name:{24 - indent}} "
    return textwrap.fill(
        text or " ", width, initial_indent=head, subsequent_indent=" " * min(38, len(head)), break_on_hyphens=False
    )


def paragraphs(lines: list[str], width: int) -> list[str]:
    """Lines of comment, wrapped: commands stay lines of their own."""
    found: list[str] = []
    for line in lines:
        if found and found[-1] and line and not line.startswith("python -m"):
            found[-1] += f" {line}"
        else:
            found.append(line)
    return [part for text in found for part in textwrap.wrap(text, width, subsequent_indent="  ") or [""]]


def help_text(config: Path, title: str, width: int | None = None) -> str:
    """All that can be asked of the command whose configuration this is.

    Of a group's own options those that the command reads: of the model all where it trains, else what its configuration names.
    """
    width = min(width or shutil.get_terminal_size().columns, 120)
    whole, conf = config.read_text(encoding="utf-8"), config.parent
    lines = [*textwrap.wrap(title[:1].upper() + title[1:], width), "", *paragraphs(comments(config), width)]
    lines += ["", "Options, as name=value, with what they are where nothing is said:"]
    lines += [described(*option, width) for option in options_of(config)]
    trains = config.stem == "train"
    groups = groups_of(config) | ({"hydra/launcher": "basic", "hydra/sweeper": "basic"} if trains else {})
    for group, chosen in groups.items():
        several = "," in chosen
        lines += ["", f"{group}s='[{chosen}]', some of:" if several else f"{group}={chosen or '…'}, one of:"]
        folder = conf / group
        shown: dict[str, tuple[str, str, str]] = {}
        for name, file in choices_of(folder).items():
            lines.append(described(name, "", description(file), width, 4))
            for option in options_of(file) if group != "experiment" and not group.startswith("hydra/") else ():
                read = group != "model" or trains or option[0] == "path" or f"${{model.{option[0]}}}" in whole
                if option[2] and option[1][0] not in "[{" and read:
                    shown.setdefault(option[0], option)
        if shown:
            lines.append(f"  with, of some or all of them, {group}.name=value:")
            lines += [described(f"{group}.{name}", value, text, width, 4) for name, value, text in shown.values()]
    lines += ["", "Flags:"]
    if re.search(r"^ +sweep:", whole, re.M):
        lines.append(described("-m", "", "a sweep: one run for each combination of values that are divided by commas", width))
    lines.append(described("--cfg job", "", "show the configuration that these arguments make, and do nothing", width))
    lines.append(described("--config-dir DIR", "", "a folder of your own, laid out as conf/, for further choices", width))
    lines.append(described("--hydra-help", "", "the flags of Hydra, which reads all this", width))
    return "\n".join(lines)


def commands(package: Path) -> dict[str, str]:
    """Every command of the package (esd.train), with the first sentence of what its module says of itself. Imports none."""
    found = {}
    for file in sorted(package.glob("*/__main__.py")):
        first = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
        call, _, text = " ".join(first.split()).partition(": ")
        found[call.removeprefix("python -m ")] = first_sentence(text)
    return found


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[a-z)\d])(?<! al)\. ", text)[0].rstrip(".")
