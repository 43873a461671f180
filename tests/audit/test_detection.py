"""Rates of detection by hand, against brute force, and what a sample is too small to say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from fedlab.audit.detection import (
    Power,
    auc_interval,
    chance_rate,
    detection,
    non_members_needed,
    roc,
    standardised,
)
from fedlab.errors import UsageError

small = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


def brute(inside: list[float], outside: list[float], rate: float) -> float:
    """The best share of members over all thresholds with at most `rate` of the others."""
    found = 0.0
    for threshold in [*inside, *outside, math.inf]:
        if sum(one >= threshold for one in outside) <= rate * len(outside) + 1e-9:
            found = max(found, sum(one >= threshold for one in inside) / len(inside))
    return found


def of(inside: list[float], outside: list[float], *rates: float) -> tuple[Power, ...]:
    return detection(inside + outside, [1] * len(inside) + [0] * len(outside), rates).powers


def test_by_hand() -> None:
    """Others 1 to 4, members 5, 3.5, 3, 0: one false alarm (4) lets 5 and 3.5 through, two the 3 as well."""
    quarter, half = of([5.0, 3.5, 3.0, 0.0], [1.0, 2.0, 3.0, 4.0], 0.25, 0.5)
    assert (quarter.rate, quarter.found, quarter.false_alarms) == (0.5, 2, 1)
    assert (half.rate, half.found, half.false_alarms) == (0.75, 3, 2)
    # Clopper and Pearson for 2 of 4
    assert quarter.ci95 == pytest.approx((beta.ppf(0.025, 2, 3), beta.ppf(0.975, 3, 2)))


def test_a_member_tied_with_the_false_alarm_too_many_is_not_found() -> None:
    (one,) = of([2.0, 2.0], [2.0, 2.0, 1.0, 0.0], 0.25)
    assert (one.rate, one.false_alarms) == (0.0, 0)


@given(small, small, st.sampled_from([0.1, 0.25, 0.5, 0.9]))
@settings(deadline=None)
def test_rates_are_those_of_brute_force(inside: list[float], outside: list[float], rate: float) -> None:
    (one,) = of(inside, outside, rate)
    if len(outside) < non_members_needed(rate):
        assert one.rate is None and one.reason is not None
    else:
        assert one.rate == brute(inside, outside, rate)


@given(small, small)
@settings(deadline=None)
def test_the_area_counts_pairs(inside: list[float], outside: list[float]) -> None:
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(inside, outside)]
    found = detection(inside + outside, [1] * len(inside) + [0] * len(outside))
    assert found.auc == pytest.approx(np.mean(pairs))
    assert found.auc_ci95 is not None
    low, high = found.auc_ci95
    assert 0.0 <= low <= found.auc + 1e-9 and found.auc - 1e-9 <= high <= 1.0
    false, true = roc(inside + outside, [1] * len(inside) + [0] * len(outside))
    assert np.trapezoid(true, false) == pytest.approx(found.auc)  # its diagonals are the ties


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 100), (0.001, 1000), (0.3, 4), (0.5, 2)])
def test_a_rate_is_refused_below_one_false_alarm(rate: float, needed: int) -> None:
    assert non_members_needed(rate) == needed
    (short,) = of([1.0], [0.0] * (needed - 1), rate)
    assert short.rate is None and short.ci95 is None and not short.told
    assert short.reason == f"needs at least {needed} non-members, had {needed - 1}"
    (enough,) = of([1.0], [0.0] * needed, rate)
    assert enough.rate == 1.0 and enough.reason is None


def test_without_members_or_others_nothing_is_said() -> None:
    found = detection([0.0] * 200, [0] * 200)
    assert found.auc is None and found.auc_ci95 is None
    assert found.powers[0].reason == "needs members, had none"
    assert detection([], []).powers[0].reason == "needs at least 100 non-members, had 0"


def test_what_guessing_reaches_is_counted_exactly() -> None:
    """3 members, 4 others, 1 false alarm allowed: X members come before the second other.

    P(X >= x) over all 35 orders, by counting them.
    """
    orders = set(itertools.permutations([1, 1, 1, 0, 0, 0, 0]))
    counts = [sum(order[: [i for i, one in enumerate(order) if not one][1]]) for order in orders]
    at_least = [np.mean([count >= x for count in counts]) for x in range(4)]
    expected = next((x / 3 for x in range(4) if at_least[x] <= 0.05), None)
    assert chance_rate(3, 4, 1) == expected
    assert chance_rate(3, 40, 0) == pytest.approx(1 / 3 if 3 / 43 <= 0.05 else 2 / 3)  # P(X >= 1) = 3/43


def test_guessing_exceeds_its_bound_in_one_sample_of_twenty_at_most() -> None:
    draws, member = np.random.default_rng(0), np.arange(400) < 200
    told = [detection(draws.random(400), member, (0.01,)).powers[0].told for _ in range(600)]
    assert 0.005 < np.mean(told) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


def test_the_area_of_guesses_lies_in_its_interval() -> None:
    draws, member, inside = np.random.default_rng(1), np.arange(120) < 60, 0
    for _ in range(300):
        bounds = detection(draws.random(120), member).auc_ci95
        assert bounds is not None
        inside += bounds[0] <= 0.5 <= bounds[1]
    assert inside / 300 > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 300)


def test_an_area_of_one_has_an_interval_with_a_width() -> None:
    low, high = auc_interval(1.0, 20, 20)
    assert high == 1.0 and 0.8 < low < 0.95
    assert auc_interval(0.0, 20, 20) == pytest.approx((0.0, 1.0 - low))
    assert auc_interval(0.5, 2000, 2000)[1] - 0.5 < 0.02


def test_scores_of_a_target_do_not_depend_on_its_scale() -> None:
    values = np.random.default_rng(2).normal(size=50)
    assert standardised(3.0 + 7.0 * values) == pytest.approx(standardised(values))
    assert standardised([5.0, 5.0, 5.0]).tolist() == [0.0, 0.0, 0.0]
    assert standardised([0.0] * 9 + [10.0]).tolist() == [0.0] * 9 + [10.0]  # the mean absolute deviation is 1
    assert standardised([]).size == 0


@pytest.mark.parametrize(
    ("scores", "member"),
    [([1.0, 2.0], [1]), ([math.nan, 1.0], [1, 0]), ([math.inf, 1.0], [1, 0]), ([[1.0]], [[1]])],
)
def test_what_cannot_be_judged_is_refused(scores: list[float], member: list[int]) -> None:
    with pytest.raises(UsageError, match=r"expected|finite"):
        detection(scores, member)


def test_a_rate_outside_its_range_is_refused() -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        detection([1.0, 0.0], [1, 0], (0.0,))
    with pytest.raises(UsageError, match="some of each"):
        roc([1.0], [1])
