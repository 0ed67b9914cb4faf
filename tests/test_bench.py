"""The benchmarks measure what they say: on the tiny model, and a few real runs of the embedded one."""

import importlib
import json
import math
import operator

import torch

from esd.bench import phase_marks, phases, quality, quality_tables
from esd.bench.bars import rows_of
from esd.bench.cost import counted, step_alone
from esd.bench.loop import ALONE, ESD_X, SOURCES, Loop, even, store_in
from esd.bench.memory import Held, beyond
from esd.erasing.concepts import Draws
from esd.erasing.layers import LayerRule, select_parameters


def test_forwards_of_an_example_are_what_the_sources_promise(tiny, tmp_path):
    store = store_in(tmp_path, walks=2)
    found = {}
    for name, batch in (("student", 10), ("pool, frozen walks", 4), ("pool, student walks", 4), ("cache", 4)):
        loop = Loop(tiny, "pizza", name, batch, store)
        if name != "student":
            loop.run(1)
        found[name] = counted(loop, 5)
    # a walk of 24.5 positions, two forwards each; the teacher's two; the student's own
    assert found == {"student": 49 + 2 + 1, "pool, frozen walks": 3, "pool, student walks": 4, "cache": 1}


def test_the_calls_of_a_step_are_made_again_by_themselves(tiny, tmp_path):
    found = step_alone(tiny, store_in(tmp_path), 2)
    assert found["calls"] == 3  # the teacher's, the student's that walks on, the student's that is trained
    assert found["step"] > 0 and found["alone"] > 0 and found["ratio"] > 0
    (row,) = rows_of({"step alone": found})
    assert row.bar == "≤ 1.1×" and row.holds == (found["ratio"] <= 1.1)


def test_few_even_positions_cost_what_many_do():
    for batch in (1, 2, 10):
        draws = even(iter(Draws(concepts=1, templates=1, positions=50, batch=batch, seed=0)), batch)
        positions = torch.cat([next(draws).position for _ in range(10 // batch)])
        assert positions.float().mean() == 24.5 and len(positions.unique()) == 10


def test_held_counts_what_is_kept_and_what_was_there_at_once():
    weight = torch.ones(1000)
    with Held() as held:
        kept = weight * 2
        view, again = kept[:10], weight.view(10, 100)
        del view, again
        gone = torch.zeros(500)
        assert held.now == 4 * 1500
        del gone
        assert held.now == 4 * 1000 and held.most == 4 * 1500
        kept.add_(1)
        del kept
    assert held.now == 0


def test_the_bytes_beyond_one_unet_are_those_of_what_is_trained(tiny):
    """On the tiny model; of Stable Diffusion 1.4 the same count says 15.3 %."""

    trained = select_parameters(tiny.denoiser, LayerRule(**ESD_X))
    found = beyond(tiny.denoiser, trained)
    moved = sum(p.numel() for name, p in tiny.denoiser.named_parameters() if name in trained)
    steps = 4 * len(trained)  # Adam counts them
    assert found["beyond it"] == 3 * 4 * moved + steps
    assert found["one U-Net"] == 4 * sum(p.numel() for p in tiny.denoiser.parameters())


def test_the_table_says_which_bar_does_not_hold():
    cases = dict.fromkeys([ALONE, *SOURCES], 1.0)
    cost = {name: {"forwards": 1.0, "seconds": seconds} for name, seconds in cases.items()}
    cost[ALONE]["seconds"] = 25.0  # 25 times the pool's and the cache's
    rows = {row.figure: row for row in rows_of({"costs": cost, "until erased": {"cache": 9.0}})}
    said = {figure: row.holds for figure, row in rows.items()}
    assert said["U-Net forwards an example: student"] is False and said["U-Net forwards an example: cache"] is True
    assert said["time an example, pool, frozen walks (batch 10) against student, batch 1"] is True
    assert said["time an example, cache (batch 10) against student, batch 1"] is False
    assert said["training time until seen in at most 3 %, cache against student, each at its best"] is False
    missing = rows["training time until seen in at most 3 %, pool, frozen walks against student, each at its best"]
    assert missing.holds is None and "not measured" in missing.measured


def result(erased=True, seconds=1.0, kept=(10, 10)):
    return {"erased": erased, "seconds": seconds, "steps": 1, "seen": [0, 9], "kept": list(kept)}


def key(part, concept, source, batch, lr, seed=0, layers="esd-x"):
    return quality.Run(part, concept, layers, seed, source, batch, lr).key


def test_tuning_takes_the_fastest_that_leaves_the_rest():
    found = {"base/cat": {"kept": [10, 10]}, "base/owl": {"kept": [10, 10]}}
    for concept in ("cat", "owl"):
        found[key("tuning", concept, "student", 1, 1e-4)] = result(seconds=9)
        found[key("tuning", concept, "student", 4, 4e-4)] = result(seconds=5, kept=(9, 10))
        found[key("tuning", concept, "student", 4, 8e-4)] = result(seconds=1, kept=(7, 10))  # faster, and too much is lost
        found[key("tuning", concept, "cache", 4, 8e-4)] = result(seconds=1, kept=(2, 10))
        found[key("tuning", concept, "cache", 4, 2e-4)] = result(seconds=8, kept=(6, 10))
        found[key("tuning", concept, "student", 2, 6e-3, layers="kv")] = result(seconds=7)
    assert quality_tables.tuned(found) == {
        ("student", "esd-x"): (4, 4e-4), ("student", "kv"): (2, 6e-3), ("cache", "esd-x"): (4, 2e-4)
    }  # fmt: skip
    for concept in ("cat", "owl"):  # one that never came to it counts for twice its time
        found[key("tuning", concept, "student", 4, 4e-4)] = result(erased=False, seconds=5, kept=(9, 10))
    assert quality_tables.tuned(found)["student", "esd-x"] == (1, 1e-4)


def test_runs_that_did_not_erase_in_time_count_as_longer_than_any():
    runs = {}
    for seed, (erased, seconds) in enumerate([(True, 10.0), (True, 30.0), (False, 40.0)]):
        runs[key("until-erased", "owl", "student", 1, 1e-4, seed)] = result(erased, seconds)
        runs[key("until-erased", "owl", "cache", 4, 1e-4, seed)] = result(True, 5.0)
        runs[key("until-erased", "owl", "pool, frozen walks", 4, 1e-4, seed)] = result(seed == 0, 5.0)
    found = quality_tables.medians(runs)
    assert found["student", "esd-x"] == {"seconds": 30.0, "runs": 3, "erased": 2}
    assert found["pool, frozen walks", "esd-x"]["seconds"] == math.inf
    assert quality_tables.ratios({"runs": runs}) == {"cache": 6.0}
    runs[key("until-erased", "owl", "student", 1, 6e-3, layers="kv")] = result(True, 20.0)  # its best
    assert quality_tables.ratios({"runs": runs}) == {"cache": 4.0}


def test_a_quality_run_trains_judges_and_stops_at_its_limit(tmp_path):
    look = quality.Look(pictures=1, every=40, steps=2)
    worker = quality.Bench(str(tmp_path), 1, look)
    run = quality.Run("until-erased", "pizza", "esd-x", 0, "cache", 2, 1e-4)
    found = worker.until_erased(run, 0.01)
    assert found["steps"] >= 1 and found["seconds"] >= 0.01 and found["kept"][1] == 3
    assert found["seen"][1] == 3 + 4  # three phrasings, four styles
    assert found["erased"] == (found["seen"][0] == 0)  # of seven pictures, 3 % are none
    straight = worker.trained(run._replace(part="equal-steps"), 2, math.inf)
    assert straight["steps"] == 2 and set(straight) == {"steps", "seconds", "seen", "kept"}


def test_the_quality_command_goes_on_where_it_was(esd, tmp_path):
    sizes = "--part equal-steps --steps 1 --batch 1 --seeds 1 --pictures 1 --every 40 --sampling-steps 2 --walks 1 --workers 1"
    first = esd("bench.quality", *sizes.split(), "--concepts", "pizza", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "8 runs to do" in first.stdout and "base model: seen" in first.stdout
    rows = [line.split(" | ") for line in first.stdout.splitlines() if line.startswith(("| student", "| pool", "| cache"))]
    assert [row[0][2:] for row in rows] == list(SOURCES) and all("; 1 steps, " in row[2] for row in rows)
    left = json.loads((tmp_path / "outputs/gallery/quality.json").read_text())
    assert [row[:2] for row in left["rows"]] == [[source, "1"] for source in SOURCES] and "base model: seen" in left["notes"][0]
    again = esd("bench.quality", *sizes.split(), "--concepts", "pizza", cwd=tmp_path)
    assert again.returncode == 0 and "equal-steps: 0 runs to do" in again.stdout
    other = esd("bench.quality", *sizes.split(), "--batch", "2", cwd=tmp_path)
    assert other.returncode == 2 and other.stderr.count("\n") == 1 and "other sizes or another model" in other.stderr


def test_the_phases_of_a_command_add_up_to_the_whole():
    found = {"first line": [0.5, 0.5, 0.0], "announcing": [4.0, 5.0, 1.0], "training": [6.0, 16.0, 10.0],
             "grids": [5.0, 17.0, 1.5], "verdict": [17.0, 29.0, 12.0], "judging": [27.0, 29.0, 2.0]}  # fmt: skip
    seconds = phases.seconds_of(found, 31.0)
    assert tuple(seconds) == (*phases.PHASES, "whole") and sum(seconds[phase] for phase in phases.PHASES) == 31.0
    assert seconds["until the first line"] == 0.5 and seconds["libraries and the model"] == 3.5
    said = phases.asked(seconds, {"whole": 62.0})
    assert "(here 0.50)" in said and "(0.5)" in said and "(12.0 and 10.0 s)" in said
    older = phases.seconds_of({name: mark for name, mark in found.items() if name != "first line"}, 31.0)
    assert older["until the first line"] == 4.0 and older["whole"] == 31.0
    assert seconds["the verdict's pictures"] == 10.0 and seconds["the rest, to the prompt"] == 2.5
    del found["training"]
    found |= {"training with grids": [6.0, 17.0, 11.0], "grids within": [6.0, 17.0, 1.0]}
    assert phases.seconds_of(found, 31.0)["training"] == 10.0


def test_the_marks_are_of_what_there_is():
    """Every name that is timed exists: else its phase would be 0 seconds."""
    for module, parts in phase_marks.PARTS.items():
        for attribute in parts:
            assert callable(operator.attrgetter(attribute)(importlib.import_module(module))), attribute
