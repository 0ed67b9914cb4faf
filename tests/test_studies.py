"""The studies' sweeps say what they promise, and their tables add up."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

import esd.train.options  # noqa: F401  (registers the options' types)
from esd.command.entry import CONF
from esd.files import write_json
from esd.metrics.counts import rate_figure
from esd.studies import attack, study

RUNS = {"objects": 72, "default": 60, "eta": 16, "preserve": 8, "many": 4}


def axes(study):
    """The values of each axis of a study's sweep."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["concept=pizza", f"experiment=study/{study}"], return_hydra_config=True)
    overrides = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in cfg.hydra.sweeper.params.items()])
    return {o.key_or_group: list(o.sweep_iterator()) if o.is_sweep_override() else [o.value()] for o in overrides}


@pytest.mark.parametrize("study", study.STUDIES)
def test_how_many_runs_a_study_is(study):
    runs = 1
    for values in axes(study).values():
        assert len(set(map(str, values))) == len(values)
        runs *= len(values)
    assert runs == RUNS[study]


def test_the_many_are_nested_sets_of_known_objects():
    from esd.emoji import words

    def nouns(value):
        return "".join(c for c in str(value) if c.isalpha() or c == ",").split(",")

    sets = [nouns(value) for value in axes("many")["concept"]]
    assert [len(set(few)) for few in sets] == [1, 4, 16, 40]
    assert all(set(few) < set(more) for few, more in zip(sets, sets[1:], strict=False)) and set(sets[-1]) <= set(words.OBJECTS)


def test_a_closer_look_sees_what_the_verdict_does_not():
    many = study.closer_rows("many", ["pizza", "cat"])
    bare = [row for row in many if row.group == "kept"]
    styled = [row for row in many if row.group == "kept_styled"]
    assert len(bare) == 3 * 83 and all(" in the style of " in row.prompt for row in styled)
    assert not any("pizza" in row.prompt or "a cat " in row.prompt for row in many) and len(styled) > 80
    assert study.closer_rows("objects", ["pizza"]) == []


def run(concept, layers, seen, kept):
    record = {"concept": [concept], "layers": layers, "eta": 1.0, "preserve": None, "preserve_weight": 1.0}
    base = {"erased": rate_figure(20, 24), "kept": rate_figure(80, 84)}
    return {
        "record": record,
        "training_seconds": 9.0,
        "base": base,
        "edit": {"erased": rate_figure(seen, 24), "kept": rate_figure(kept, 84)},
    }


def test_lines_pool_counts_and_not_rates(capsys):
    runs = [run("pizza", "esd-x", 0, 84), run("owl", "esd-x", 6, 42), run("owl", "esd-u", 24, 84), run("noto", "esd-u", 0, 84)]
    lines = study.table_of("objects", runs)
    assert [(line["layers"], line["concept"], line["runs"]) for line in lines] == [
        ("esd-u", "noto", 1), ("esd-u", "owl", 1), ("esd-u", "all objects", 1),
        ("esd-x", "owl", 1), ("esd-x", "pizza", 1), ("esd-x", "all objects", 2),
    ]  # fmt: skip
    assert all(line["lost"] == [] for line in lines)
    assert lines[-1]["erased"]["edit"] == rate_figure(6, 48) and lines[-1]["kept"]["edit"] == rate_figure(126, 168)
    study.print_table(*study.columns_and_rows("objects", lines))
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "| layers | concept | seen, by name | others right | training |"
    pooled = "| esd-x | all objects | 83 → 12.5 % (5.9–24.7 %) of 48 | 95 → 75.0 % (67.9–80.9 %) of 168 | 9 s |"
    assert (
        pooled in said and "| esd-x | pizza | 83 → 0.0 % (0.0–13.8 %) of 24 | 95 → 100.0 % (95.6–100.0 %) of 84 | 9 s |" in said
    )
    for it, fox in zip(runs, (0, 4, 8, 8), strict=True):
        for when, hits in (("base", 8), ("edit", fox)):
            it[when]["lookalikes"] = rate_figure(hits, 8) | {"each": {"fox": [hits, 8]}}
    head, body = study.columns_and_rows("objects", study.table_of("objects", [*runs, runs[1]]))
    assert head[-2:] == ["lost", "training"] and [row[-2] for row in body] == [
        "none", "none", "0 in 1 runs", "fox", "fox", "2 in 3 runs",
    ], "4 of 8 twice: 8 of 16"  # fmt: skip
    few = study.table_of("many", [run("pizza", "kv", 0, 84)])
    (cells,) = study.columns_and_rows("many", few)[1]
    assert (cells[1], cells[-1]) == ("1", "9 s")
    beside = study.table_of("preserve", [run("axe", "esd-u", 0, 84)])
    assert "axe others right" in study.columns_and_rows("preserve", beside)[0]


def test_attacks_are_made_on_the_edits_that_a_study_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = attack.FOLDER / "pizza" / "kv"
    assert attack.erased("pizza", "kv") == mine
    for n, (layers, seed) in enumerate([("esd-x", 0), ("kv", 1), ("kv", 0)]):
        folder = tmp_path / "outputs/studies/objects-seed-0" / f"{n}-pizza"
        write_json(folder / "metrics.json", {"record": {"concept": ["pizza"], "layers": layers, "seed": seed}})
    assert attack.erased("pizza", "kv").name == "2-pizza" and attack.erased("pizza", "esd-u").parent == mine.parent
    assert attack.main(["rules=esd-y"]) == 2
