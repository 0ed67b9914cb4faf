"""The studies' sweeps say what they promise, and their tables add up."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

import esd.train.options  # noqa: F401  (registers the options' types)
from esd.attack.tries import Try
from esd.command.entry import CONF
from esd.files import write_json
from esd.metrics.counts import rate_figure
from esd.studies import attack, attack_curves, attack_tries, frontier, study

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
    mine = attack.FOLDER / "pizza" / "kv-0"
    assert attack.erased("pizza", "kv", 0) == mine
    for n, (layers, seed) in enumerate([("esd-x", 0), ("kv", 1), ("kv", 0)]):
        folder = tmp_path / "outputs/studies/objects-seed-0" / f"{n}-pizza"
        write_json(folder / "metrics.json", {"record": {"concept": ["pizza"], "layers": layers, "seed": seed}})
    assert attack.erased("pizza", "kv", 0).name == "2-pizza" and attack.erased("pizza", "esd-u", 0).parent == mine.parent
    assert attack.erased("pizza", "kv", 1).name == "kv-1"  # seed 1 of a study of seed 0: not looked for there
    assert attack.main(["rules=esd-y"]) == attack.main(["erasures=one"]) == 2


def test_what_attacks_found_is_kept_an_edit_a_line(tmp_path, monkeypatch):
    """Two machines' parts make one table: tries come back as they were, an edit that is attacked again takes its line's
    place, and another attack on the same edit stands beside the first."""
    monkeypatch.chdir(tmp_path)
    record = {"record": {"concept": ["pizza"], "layers": "kv", "seed": 1}, "training_seconds": 5.0}
    write_json(
        tmp_path / "run/metrics.json", {**record, "edit": {"erased": {"hits": 0, "of": 24}, "kept": {"hits": 9, "of": 9}}}
    )

    def tries(name, row, seen, loss="0.1"):
        about = {"settings": "", "about": "", "prompt": "", "adversarial_prompt": "", "judge": "", "picture": ""}
        return [
            Try(edit="it", concept="pizza", attack=name, row=row, seed=0, steps=80, noise=n, loss=loss, seen=int(its), **about)
            for n, its in enumerate(seen)
        ]

    first = tries("inversion", "edit", "0110") + tries("inversion", "never", "0010")
    line = attack_tries.line_of(tmp_path / "run", 1, {"attacks": {"inversion": {}}}, "it", first)
    assert line["verdict"] == {"erased": [0, 24], "kept": [9, 9]}
    again = list(attack_tries.tries_of(line))
    assert [(t.row, t.seed, t.noise, t.seen) for t in again] == [(t.row, 1000, t.noise, t.seen) for t in first]
    attack_tries.keep([line])
    words = tries("words", "edit", "1", loss="")
    beside = attack_tries.line_of(tmp_path / "run", 1, {"attacks": {"words": {}}}, "it", words)
    (both,) = attack_tries.keep([beside])
    assert set(both["settings"]) == {"inversion", "words"} and both["tries"]["words edit 0 =80"] == "1"
    assert {t.loss for t in attack_tries.tries_of(both) if t.attack == "words"} == {""}  # they number tries, still
    write_json(tmp_path / "run/metrics.json", {**record, "edit": {"erased": {"hits": 1, "of": 24}}})
    other = attack_tries.line_of(tmp_path / "run", 1, {"attacks": {"words": {}}}, "it", words)
    (alone,) = attack_tries.keep([other])  # another edit: what was found on the former is not its own
    assert set(alone["settings"]) == {"words"}
    elsewhere = {**other, "weights": "others"}
    attack_tries.FILE.write_text(json.dumps(elsewhere) + "\n", encoding="utf-8")
    assert attack_tries.read() == []


def test_the_tries_of_a_rule_are_pooled_and_drawn_as_curves():
    def line(concept, rule, seen):
        cells = {
            f"finetune {row} 0 {steps}": digits for row, digits in {"edit": seen, "never": "0001"}.items() for steps in (5, 20)
        }
        counts = {"verdict": {"erased": [0, 24]}, "seconds": 5.0}
        return {"concept": concept, "rule": rule, "erasure": 0, "tries": cells, "settings": {"finetune": {}}, **counts}

    lines = [line("pizza", "kv", "1111"), line("owl", "kv", "0011"), line("noto", "kv", "1000"), line("pizza", "esd-u", "0000")]
    found = attack.pooled(lines)
    assert [(it["variant"], it["steps"]) for it in found] == [
        ("kv", 5), ("esd-u", 5), ("kv", 20), ("esd-u", 20), ("kv, styles", 5), ("kv, styles", 20)
    ]  # fmt: skip
    kv = found[0]
    assert (kv["edit"]["hits"], kv["edit"]["of"], kv["never"]["hits"]) == (6, 8, 2) and kv["excess"]["over"] == "concepts"
    said = attack.spared(lines, "esd-u")
    assert "of pizza; erasure seeds 0: seen by name 0.0 %" in said and "look-alikes" not in said
    svg = ElementTree.fromstring(attack_curves.drawn(found))
    names = [title.text for title in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert names == ["kv: seen", "kv: where it never was", "esd-u: seen", "esd-u: where it never was"]


def test_the_frontier_is_of_the_objects_that_every_rule_was_tried_on():
    def line(concept, rule, found, back):
        """found: pictures of four in which inversion finds it after 80 and 200 steps; back: after 5 and 20 of fine-tuning."""
        rows = {"edit": found, "never": (0, 1), "kept": (4, 3)}
        cells = {
            f"inversion {row} 0 {steps}": "1" * n + "0" * (4 - n)
            for row, its in rows.items() for n, steps in zip(its, (80, 200), strict=True)
        }  # fmt: skip
        cells |= {f"finetune edit 0 {steps}": "1" * n + "0" * (4 - n) for n, steps in zip(back, (5, 20), strict=True)}
        verdict = {"erased": [0, 24], "lookalikes": [12, 24], "kept": [80, 81]}
        return {"concept": concept, "rule": rule, "erasure": 0, "tries": cells, "verdict": verdict, "seconds": 5.0}

    lines = [
        line("pizza", "kv", (4, 4), (1, 4)), line("owl", "kv", (2, 2), (0, 2)), line("pizza", "esd-u", (0, 1), (0, 1)),
        line("noto", "kv", (4, 4), (4, 4)), line("noto", "esd-u", (4, 4), (4, 4)),
    ]  # fmt: skip
    concepts, shared = frontier.shared(lines)
    assert concepts == ["pizza"] and len(shared) == 2  # owl was tried on one rule, noto is a style
    (kv, esd_u), svg = frontier.rows_and_chart(shared)
    assert kv[0] == "kv" and kv[1].startswith("+100 (") and kv[2].startswith("+75 (") and kv[3] == "4 and 3 of 4"
    assert esd_u[1].startswith("+0 (") and esd_u[2].startswith("+0 (")
    assert (kv[4], esd_u[4], kv[5]) == ("20", "more than 20", "")  # no twin was fine-tuned here
    assert kv[6:] == ["0.0 % (0 of 24)", "50.0 % (12 of 24)", "98.8 % (80 of 81)", "5"]
    titles = [its.text for its in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")]
    assert titles[:2] == [f"{name}: +75 points, 50 % of the look-alikes right" for name in ("pizza", "kv")]
    assert frontier.shared([]) == ([], [])
