"""The figures of the study of GBA's switches, by hand."""

from __future__ import annotations

import math

import pytest

from reproductions.gba_switch import BEFORE, CLOSE, SYNC, WINDOW, faster, final, jump, seconds_to


def test_a_jump_is_measured_against_changes_before_it() -> None:
    """Losses go up and down by one every WINDOW rounds, so that changes over WINDOW rounds before are 0 on
    average. A switch in round r that adds 3 is a change of 3 more than the one that would have been."""
    switch = WINDOW + BEFORE + 1
    zigzag = [float(number // WINDOW % 2) for number in range(switch + WINDOW)]
    changes = [zigzag[end] - zigzag[end - WINDOW] for end in range(switch - 1 - BEFORE, switch - 1)]
    assert sorted(set(changes)) == [-1.0, 1.0] and sum(changes) == 0.0
    deviation = math.sqrt(BEFORE / (BEFORE - 1))
    plain = zigzag[switch - 2 + WINDOW] - zigzag[switch - 2]
    assert jump(zigzag, switch) == pytest.approx(plain / deviation)
    jumped = [loss + 3.0 * (place >= switch - 1) for place, loss in enumerate(zigzag)]
    assert jump(jumped, switch) == pytest.approx((plain + 3.0) / deviation)
    assert jump([-one for one in jumped], switch) == pytest.approx(-(plain + 3.0) / deviation)


def test_speed_is_the_ratio_of_times_to_the_same_loss() -> None:
    """The synchronous run ends at 1, so that 1.05 is to be reached: after 30 s there, after 10 s here."""
    sync = {"loss": [3.0, 1.06, CLOSE, *[1.0] * 10], "seconds": [10.0, 20.0, 30.0, *range(40, 140, 10)]}
    other = {"loss": [2.0, 1.0], "seconds": [5.0, 10.0]}
    assert final(sync) == 1.0
    assert faster({SYNC: [sync], "other": [other]}, "other") == (3.0,)
    assert math.isnan(seconds_to(other, 0.5))
