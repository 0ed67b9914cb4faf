"""The README says what is there."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiny import ROOT

from esd.command.entry import CONF
from esd.command.words import quote_free_text
from esd.train.options import check_train_options

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    python -m esd\.train (.+)$", README, re.M)
CASES = re.findall(r"^\| `(concept=.+?)` \|.* s \|$", README, re.M)  # the table of erasures


def test_it_is_short_and_its_pictures_and_targets_exist():
    assert len(README.splitlines()) <= 200
    pictures = re.findall(r"!\[.*?\]\((.+?)\)", README)
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:`|^    )make ([a-z-]+)", README, re.M))
    assert {"demo", "test"} <= targets and all(f"\n{target}:" in makefile for target in targets)
    assert len(re.findall(r"^[a-z-]+:.*##", makefile, re.M)) <= 10
    for module in set(re.findall(r"python -m (esd\.[a-z_.]+)", README)):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


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
