"""A full disk, files cut short or with a bit flipped, losses that are not finite, too little memory: one line each, and what
was there before is as it was. (`make faults` tries more of each.)"""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("number", range(6))
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on(faults, number):
    outcome = faults.full_disk(number)
    assert not outcome.lost and not outcome.wrong, outcome


@pytest.mark.parametrize("number", range(9))
def test_a_damaged_file_is_noticed(faults, number):
    outcome = faults.damaged(number)
    assert not outcome.lost and not outcome.wrong, outcome


@pytest.mark.parametrize("number", range(3))
def test_a_loss_that_is_not_finite_ends_in_one_line(faults, number):
    outcome = faults.not_finite(number)
    assert not outcome.lost and not outcome.wrong, outcome


def test_too_little_memory_says_what_to_lower(faults):
    outcome = faults.out_of_memory(0)
    assert not outcome.wrong, outcome
