"""The README says what is there."""

import ast
import inspect
import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiny import ROOT

import esd
from esd.bench import gallery
from esd.command.entry import CONF
from esd.command.words import quote_free_text
from esd.train.options import check_train_options

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    python -m esd\.train (.+)$", README, re.M)
CASES = [shlex.join(shlex.split(options)) for options in gallery.CASES.values()]  # the results page's


def test_it_is_short():
    assert len(README.splitlines()) <= 110 and len(README.encode()) <= 9 * 1024
    tables = [line for line in README.splitlines() if line.startswith("|")]
    assert tables and max(line.count("|") - 1 for line in tables) <= 5


def test_what_it_names_is_there():
    places = [place for place in re.findall(r"\]\((.+?)\)", README) if not place.startswith("https:")]
    assert "outputs/gallery/README.md" in places and all((ROOT / place).is_file() for place in places)
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:`|^    )make ([a-z-]+)", README, re.M))
    assert {"demo", "test"} <= targets and all(f"\n{target}:" in makefile for target in targets)
    assert len(re.findall(r"^[a-z-]+:.*##", makefile, re.M)) <= 10
    for module in set(re.findall(r"`(?:python -m )?(esd\.[a-z_.]+)", README)):
        path = ROOT / module.replace(".", "/")
        assert (path / "__main__.py").is_file() or path.with_suffix(".py").is_file(), module
    rooms = {path.name for path in (ROOT / "esd").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(re.findall(r"(?:^    |  )([a-z]+)/ ", README, re.M)) == rooms


def test_every_command_is_in_its_table():
    commands = {path.parent.name for path in (ROOT / "esd").glob("*/__main__.py")}
    assert {name.split(".")[0] for name in re.findall(r"^\| `python -m esd\.([a-z.]+)", README, re.M)} == commands


def test_its_python_calls_what_there_is():
    """Every function it imports from esd is public, and takes the arguments that it is given."""
    lines = re.findall(r"^    (.+)$", README.split("## From Python")[1].split("\n## ")[0], re.M)
    tree = ast.parse("\n".join(lines))
    (imported,) = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    assert imported.module == "esd" and {name.name for name in imported.names} <= set(esd.__all__)
    made = {}  # which class a name holds
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            returned = inspect.signature(getattr(esd, node.value.func.id), eval_str=True).return_annotation
            made[node.targets[0].id] = returned
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            of = node.func
            called = getattr(esd, of.id) if isinstance(of, ast.Name) else getattr(made[of.value.id], of.attr)
            more = [] if isinstance(of, ast.Name) else [None]  # self
            inspect.signature(called).bind(*more, *node.args, **{keyword.arg: None for keyword in node.keywords})


@pytest.mark.parametrize("line", [*COMMANDS, *CASES])
def test_its_commands_are_understood(line):
    arguments = shlex.split(line)
    multirun = "-m" in arguments
    overrides = [quote_free_text(argument, multirun) for argument in arguments if argument != "-m"]
    if multirun:
        assert OverridesParser.create().parse_overrides(overrides)
        own = [override for override in overrides if not override.startswith("hydra")]
        overrides = [re.sub(r"interval\(", "", override).partition(",")[0] for override in own]  # the sweep's first run
    with initialize_config_dir(str(CONF), version_base="1.3"):
        check_train_options(compose("train", overrides))
