"""What the rows on differential privacy count with."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom

from benchmarks.defenses.rows.dp_fashion import differences, upper_bound
from benchmarks.sides import dp_side


@pytest.mark.parametrize(("count", "place"), [(16, 12), (20, 15), (5, 5)])
def test_the_bound_is_the_order_statistic_of_the_sign_test(count: int, place: int) -> None:
    """P(Bin(16, 1/2) >= 12) = 0.038 and P(>= 11) = 0.105; five values bound nothing below their largest."""
    assert upper_bound([float(one) for one in range(count, 0, -1)]) == place
    assert binom.sf(place - 1, count, 0.5) <= 0.05 < binom.sf(place - 2, count, 0.5)
    assert upper_bound([1.0, 2.0]) == math.inf


def test_victims_are_paired_with_their_own_nulls() -> None:
    found = {
        "victims": [{"psnr": [3.0, None, 9.0]}, {"psnr": [None]}],
        "control": [{"psnr": [5.0, 4.0]}, {"psnr": [1.0]}],
    }
    assert differences(found) == [1.5]


def test_both_sides_take_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients, two steps, without noise: both run, and leave torch's own settings alone."""
    for name, value in (("CLIENTS", 2), ("STEPS", 2)):
        monkeypatch.setattr(dp_side, name, value)
    before = torch.get_num_threads()
    dp_side.ours(4)(1)
    dp_side.theirs(4)(1)
    assert torch.get_num_threads() == before and dp_side.records(4) == 24
