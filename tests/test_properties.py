"""What holds for every text, name, rule and draw, searched by hypothesis for one that it does not hold for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tiny import tiny_pipeline

from esd import UserError
from esd.command.checks import texts
from esd.command.words import as_typed, command_line, hydra_literal, quote_free_text, text_option
from esd.erasing.concepts import Concept, Draws, pair_up, preserved
from esd.erasing.layers import LayerRule, select_parameters, student_of
from esd.files import new_folder, slug
from esd.metrics.counts import rate_figure

settings.register_profile(
    "esd", deadline=None, max_examples=300, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("esd")

# What can be typed: anything but NUL, which no argument can hold, and halves of characters.
TYPED = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60)
NASTY = st.text(st.sampled_from("a \\'\"${}[](),:=%~|\n/.é☕"), min_size=1, max_size=20)  # what grammars stumble over
PARSER = OverridesParser.create()


def heard(argument: str) -> object:
    """What a program configured by Hydra reads where this was typed."""
    override = PARSER.parse_override(argument)
    return OmegaConf.create({"value": override.value()}).value


@given(TYPED | NASTY)
@example("Monet's garden")
@example("a\\")
@example("\\'")
@example("${oc.env:HOME}")
@example("\\${x}")
@example("\\\\${x}\\'")
def test_a_text_is_heard_as_it_was_typed(text):
    assume(text.strip())
    assert heard(f"prompt={hydra_literal(text)}") == text
    if text[0] not in "'\"[$":  # these say that it is quoted already
        assert heard(quote_free_text(f"prompt={text}", False)) == text.strip()


@given(st.sampled_from(["concept", "prompt", "templates", "preserve", "edit", "model.path", "seed"]), TYPED | NASTY)
@example("concept", "'a' and 'b'")
@example("edit", "a,b/c d")
@example("concept", "a, b")
def test_a_command_that_is_printed_says_the_same_when_it_is_pasted(name, text):
    assume(text.strip())
    option = text_option(name, text)
    python, _, module, pasted = shlex.split(command_line("esd.sample", option))
    assert (python, module) == ("python", "esd.sample")
    value = heard(quote_free_text(pasted, False))
    assert value == ([text] if name == "templates" else text)
    recorded = quote_free_text(f"{name}={hydra_literal(text)}", False)
    assert heard(quote_free_text(as_typed(recorded), False)) == heard(recorded)


@given(st.sampled_from(["concept", "prompt", "templates"]), st.sampled_from("'\"[$"), TYPED | NASTY)
def test_what_begins_with_a_quote_or_a_bracket_is_read_or_told(name, first, text):
    try:
        option = quote_free_text(f"{name}={first}{text}", False)
    except UserError as told:
        assert "cannot be read as a list: put its texts in quotes" in str(told)
        (pasted,) = shlex.split(str(told).rpartition("quotes, ")[2])
        assert PARSER.parse_override(quote_free_text(pasted, False)) is not None
    else:
        PARSER.parse_override(option)


@given(st.lists(TYPED | NASTY, min_size=1, max_size=4))
def test_commas_divide_concepts(parts):
    parts = [part.replace(",", ";").strip() for part in parts]
    typed = ",".join(parts)
    assume(all(parts) and typed[0] not in "'\"[$")
    value = heard(quote_free_text(f"concept={typed}", False))
    assert texts(value, "concept") == parts
    swept = PARSER.parse_override(quote_free_text(f"concept={typed}", True))
    found = [text.text for text in swept.value().list] if len(parts) > 1 else [swept.value()]
    assert [OmegaConf.create({"value": text}).value for text in found] == parts


@given(st.lists(TYPED, min_size=1, max_size=5), st.integers(0, 5), st.floats(0, 10))
def test_every_concept_has_its_source_or_there_is_an_error(concepts, sources, eta):
    names = [f"source {n}" for n in range(sources)]
    if sources not in (1, len(concepts)):
        with pytest.raises(ValueError):
            pair_up(concepts, names, eta)
        return
    found = pair_up(concepts, names, eta)
    wanted = names if sources == len(concepts) else names * len(concepts)
    assert found == [Concept(text, source, eta) for text, source in zip(concepts, wanted, strict=True)]
    assert all(kept.erase_from == kept.text and kept.eta == 0 for kept in preserved(concepts, 1.0))


@given(st.text(max_size=300) | st.lists(st.text(max_size=50), max_size=5))
@example("../../etc/passwd")
@example("...")
@example("-" * 50)
@example("x" * 39 + "-y")
def test_a_name_of_a_file_is_a_name_in_every_folder(text):
    name = slug(text)
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name) and not name.endswith("-")
    assert slug(name) == name and (Path("/a") / name).parent == Path("/a")


@given(names=st.lists(st.text(max_size=30), min_size=1, max_size=10))
def test_every_run_has_a_folder_of_its_own(names, tmp_path_factory):
    parent, made = str(tmp_path_factory.mktemp("runs")), []
    for name in names:
        new_folder.cache_clear()  # another process
        made.append(new_folder(parent, slug(name)))
    assert len(set(made)) == len(names) and all(Path(folder).parent == Path(parent) for folder in made)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    from esd.models import load

    return load(str(tiny_pipeline(tmp_path_factory.mktemp("tiny"))), "tiny").denoiser


PATTERNS = st.sampled_from([r"\.attn2\.", r"attn1", "down_blocks", r"^up_blocks\.1", "to_[kv]", "norm", "bias$", "conv", "zzz"])
RULES = st.lists(PATTERNS, max_size=3)
CLASSES = st.lists(st.sampled_from(["Linear", "Conv2d", "GroupNorm", "LayerNorm", "Nothing"]), max_size=2)


def chosen(denoiser, *args) -> list[str]:
    try:
        return select_parameters(denoiser, LayerRule("test", *args))
    except UserError:
        return []


@given(include=RULES, exclude=RULES, modules=CLASSES, more=PATTERNS)
def test_rules_are_sets_of_weights(teacher, include, exclude, modules, more):
    every = [name for name, _ in teacher.named_parameters()]
    names = chosen(teacher, include, exclude, modules)
    assert names == [name for name in every if name in names], "in the denoiser's order, each once"
    both = {*names, *chosen(teacher, [more], exclude, modules)}
    assert set(chosen(teacher, [*include, more], exclude, modules)) == both, "one more pattern adds its own"
    rest, gone = chosen(teacher, include, [*exclude, more], modules), chosen(teacher, [more], [], modules)
    assert set(rest) == set(names) - set(gone), "one more exclusion takes its own away"
    kinds = [set(chosen(teacher, include, exclude, [kind])) for kind in modules]
    assert not modules or set(names) == set().union(*kinds)


@settings(max_examples=15)
@given(include=st.lists(PATTERNS, min_size=1, max_size=2))
def test_a_student_owns_what_moves_and_shares_the_rest(teacher, include):
    names = chosen(teacher, include)
    assume(names)
    student = student_of(teacher, names)
    theirs = dict(teacher.named_parameters())
    for name, own in student.named_parameters():
        assert own.requires_grad == (name in names) == (own.data_ptr() != theirs[name].data_ptr())
        assert torch.equal(own, theirs[name])


SIZES = {
    "concepts": st.integers(1, 5), "templates": st.integers(1, 3), "positions": st.integers(1, 60),
    "seed": st.integers(0, 2**40),
    "preserved": st.integers(0, 3), "walks": st.none() | st.integers(1, 50), "staggered": st.booleans(),
}  # fmt: skip


@given(st.fixed_dictionaries(SIZES), st.integers(1, 4), st.integers(0, 3), st.integers(1, 4), st.integers(0, 10**6))
def test_a_draw_is_a_function_of_seed_and_index_alone(sizes, batch, preserved_batch, world, step):
    preserved_batch = preserved_batch if sizes["preserved"] else 0
    large = Draws(**sizes, batch=world * batch, preserved_batch=world * preserved_batch)
    small = [
        Draws(**sizes, batch=batch, preserved_batch=preserved_batch, rank=rank, world=world, start=step)
        for rank in range(world)
    ]
    whole, shares = large.at(step), [next(iter(part)) for part in small]
    for field, values in zip(whole._fields, whole, strict=True):
        erase = torch.cat([getattr(share, field)[:batch] for share in shares])
        preserve = torch.cat([getattr(share, field)[batch:] for share in shares])
        assert torch.equal(values, torch.cat([erase, preserve])), "N devices with batch B draw what one with N·B draws"
    erasing = torch.arange(len(whole.concept)) < world * batch
    assert ((whole.concept < sizes["concepts"]) == erasing).all() and (whole.concept >= 0).all()
    assert (whole.concept < sizes["concepts"] + sizes["preserved"]).all() and (whole.template[~erasing] == 0).all()
    for values, limit in (
        (whole.template, sizes["templates"]),
        (whole.position, sizes["positions"]),
        (whole.noise, sizes["walks"] or 2**62),
    ):
        assert ((values >= 0) & (values < limit)).all()


@given(st.integers(0, 500), st.integers(1, 500))
def test_an_interval_holds_its_rate_and_stays_between_0_and_1(hits, of):
    assume(hits <= of)
    found = rate_figure(hits, of)
    low, high = found["interval"]
    assert 0 <= low <= round(found["rate"], 4) <= high <= 1 and low < high
