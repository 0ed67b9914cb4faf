"""What people type, as Hydra reads it, and what is printed and recorded for them to type again."""

from __future__ import annotations

import shlex

import pytest

from esd import UserError
from esd.command.words import as_typed, check_readable, command_line, quote_free_text, text_option


@pytest.mark.parametrize(
    ("argument", "multirun", "expected"),
    [
        ("concept=Van Gogh", False, "concept='Van Gogh'"),
        ("concept=pizza,cat", False, "concept=['pizza','cat']"),
        ("concept=pizza,cat", True, "concept='pizza','cat'"),
        ("concept=[pizza,cat]", False, "concept=[pizza,cat]"),
        ("concept=Monet's garden", False, r"concept='Monet\'s garden'"),
        ("prompt=a pizza, with cheese", False, "prompt='a pizza, with cheese'"),
        ("eta=0.5,1", True, "eta=0.5,1"),
        ("concept=", False, "concept="),
        # what begins with a quote or a bracket
        ("concept='90s cartoon style", False, r"concept='\'90s cartoon style'"),
        ("concept='90s cartoon,pizza", True, r"concept='\'90s cartoon','pizza'"),
        ("concept='90s, '80s", False, r"concept=['\'90s','\'80s']"),
        ("concept=[ACME] logo", False, "concept='[ACME] logo'"),
        ("concept=[ACME] logo [old]", False, "concept='[ACME] logo [old]'"),
        ("concept=[ACME", False, "concept='[ACME'"),
        ('concept="Big" Ben', False, "concept='\"Big\" Ben'"),
        ("concept='a, b'", False, "concept='a, b'"),
        ("concept='a','b'", False, "concept=['a','b']"),
        ("concept='a','b'", True, "concept='a','b'"),
        ("erase_from='90s cartoon", False, r"erase_from='\'90s cartoon'"),
        ("concept=[Ван Гог, η, Big Ben]", False, 'concept=["Ван Гог", "η", Big Ben]'),
        ("prompt=[ACME] logo, red", False, "prompt='[ACME] logo, red'"),
        ("prompt='90s' cartoon, red", False, r"prompt='\'90s\' cartoon, red'"),
        ("prompt=$5 bill", False, "prompt='$5 bill'"),
        ("prompt=${oc.env:HOME}", False, "prompt=${oc.env:HOME}"),
        ("prompt=${x", False, r"prompt='\${x'"),
        ("preserve='90s cartoon, a cat", False, r"preserve=['\'90s cartoon','a cat']"),
        ("preserve=auto", False, "preserve=auto"),
        ("edit=[old] runs/it's/edit.safetensors", False, r"edit='[old] runs/it\'s/edit.safetensors'"),
        ("edit=a,b/edit.safetensors", False, "edit='a,b/edit.safetensors'"),
        # the phrasings are a list
        ("templates=a painting by {}", False, "templates=['a painting by {}']"),
        ("templates='a painting by {}'", False, "templates=['a painting by {}']"),
        ("templates={}, oil on canvas", True, "templates=['{}, oil on canvas']"),
        ("templates=['{}','a {}']", False, "templates=['{}','a {}']"),
    ],
)
def test_free_text_reaches_hydra_as_text(argument, multirun, expected):
    assert quote_free_text(argument, multirun) == expected


@pytest.mark.parametrize(
    ("argument", "right"),
    [
        ("concept=[Monet's garden, dog]", """concept='["Monet'"'"'s garden", dog]'"""),
        ("templates=[{}, a {}]", """templates='["{}", "a {}"]'"""),
        ("templates=[{}]", """templates='["{}"]'"""),
    ],
)
def test_a_list_that_cannot_be_read_is_told_with_how_to_write_it(argument, right):
    with pytest.raises(UserError) as told:
        quote_free_text(argument, False)
    assert str(told.value) == f"{argument} cannot be read as a list: put its texts in quotes, {right}"
    (pasted,) = shlex.split(right)
    assert quote_free_text(pasted, False) == pasted


def test_the_parsers_own_words_are_never_what_people_read():
    with pytest.raises(UserError) as told:  # python -m esd.train concept=Van Gogh
        check_readable(["concept=Van", "Gogh"])
    assert str(told.value) == (
        "'Gogh' has no '=': options are name=value, and a value with spaces goes in quotes, for example concept='Van Gogh'"
    )
    with pytest.raises(UserError) as told:
        check_readable(["eta=1", "logger.project=it's mine"])
    assert str(told.value) == (
        """logger.project=it's mine cannot be read: put the value in quotes, logger.project="'it\\'s mine'\""""
    )
    check_readable(["concept='a'", "~model", "+x=1", "eta=1,2"])


@pytest.mark.parametrize(
    ("recorded", "typed"),
    [
        ("concept='dog'", "concept=dog"),
        ("concept='Van Gogh'", "concept='Van Gogh'"),
        ("concept=['pizza','cat']", "concept=pizza,cat"),
        (r"concept='Monet\'s garden'", """concept="Monet's garden\""""),
        ("concept='a, b'", """concept="'a, b'\""""),
        ("concept='[ACME] logo'", "concept='[ACME] logo'"),
        ("templates=['a painting by {}']", "templates='a painting by {}'"),
        ("edit='a b, c/edit.safetensors'", "edit='a b, c/edit.safetensors'"),
        ("eta=0.5", "eta=0.5"),
        ("hydra/launcher=cores", "hydra/launcher=cores"),
        ("+optimizer.betas=[0.9,0.99]", "+optimizer.betas='[0.9,0.99]'"),
    ],
)
def test_a_recorded_command_is_what_a_person_would_type(recorded, typed):
    assert command_line("esd.train", recorded) == f"python -m esd.train {typed}"
    (pasted,) = shlex.split(typed)
    assert quote_free_text(pasted, False) == recorded or as_typed(recorded) == recorded


def test_printed_paths_can_be_pasted():
    folder = "outputs/Größe, Maß/it's [a] run"
    line = command_line("esd.sample", text_option("edit", folder), text_option("prompt", "'90s cartoon"))
    assert line == f"""python -m esd.sample edit="{folder}" prompt="'90s cartoon\""""
    assert shlex.split(command_line("esd.report", "a b/c, d"))[-1] == "a b/c, d"
