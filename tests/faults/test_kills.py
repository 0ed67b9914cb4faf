"""kill -9 at seeded random moments, and what goes on after it: the same file, bit for bit. (`make faults` tries 200.)"""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("number", range(12))
def test_a_killed_run_goes_on_to_the_same_file(faults, number):
    outcome = faults.killed(number)
    assert not outcome.lost and not outcome.wrong, outcome
