"""What --help and python -m esd say: every option described, nested choices listed, nothing that the command cannot use."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from tiny import ROOT

from esd.command.entry import CONF
from esd.command.help import choices_of, commands, description, groups_of, help_text, options_of

CONFIGS = sorted(CONF.glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_every_option_and_every_choice_is_described(config):
    options = options_of(config)
    assert options and [name for name, _, text in options if not text] == []
    text = help_text(config, "erase.", 100)
    for name, _, _ in options:
        assert f"\n  {name} " in text
    for group in groups_of(config):
        for name, file in choices_of(CONF / group).items():
            assert description(file) and f"\n    {name} " in text
    assert max(len(line) for line in help_text(config, "erase.", 80).splitlines() if " " in line.strip()) <= 80


def test_of_the_groups_those_that_a_command_reads():
    train, sample = (help_text(CONF / f"{name}.yaml", "", 100) for name in ("train", "sample"))
    for words in ("emoji/lora", "paper/nudity", "trajectories.walks", "model.steps", "hydra/launcher", "cores", "  -m "):
        assert words in train and words not in sample
    assert "model=emoji, one of:" in sample and "model.path" in sample and "concept" not in sample
    assert "needed       edit.safetensors, or the run's folder" in sample


def test_help_is_printed_and_nothing_is_done(monkeypatch, capsys, tmp_path):
    from esd.sample.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["esd.sample", "prompt=a", "--help"])
    assert main() is None
    assert capsys.readouterr().out.startswith("Pictures of base and edit from the same noise.\n")
    assert list(tmp_path.iterdir()) == []


def test_python_m_esd_lists_the_commands():
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "esd"], cwd=ROOT, capture_output=True, text=True)
    found = commands(ROOT / "esd")
    assert done.returncode == 0 and {call.split()[0] for call in found} >= {"esd.train", "esd.sample", "esd.evaluate"}
    for call, text in found.items():
        assert f"  python -m {call}\n      {text}\n" in done.stdout and text
    assert not {"torch", "hydra", "diffusers", "wandb"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_commands_without_a_configuration_describe_their_options_too():
    for file in (ROOT / "esd").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                assert any(keyword.arg == "help" for keyword in node.keywords), f"{file}:{node.lineno}"
