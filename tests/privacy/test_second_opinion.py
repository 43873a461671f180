"""Two libraries, four accountants: known values, their order, limits, and what a difference leads to."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.privacy import History, history_of, prv_epsilon, rdp_epsilon
from fedlab.privacy.gaussian import gaussian_epsilon
from fedlab.privacy.second_opinion import DELTAS, ORDERS, agrees, curve, opinions, pld, rdp

MNIST: History = ((1.1, 256 / 60000, 14062),)


def test_known_values() -> None:
    """MNIST's usual setting, to the last digit given; both RDPs are equal."""
    said = {one.accountant.split(" 0")[0].split(" 1")[0]: one.epsilon for one in opinions(MNIST, 1e-5)}
    known = {"RDP (opacus": 2.59656, "RDP (dp-accounting": 2.59656, "PRV (opacus": 2.39174}
    known["PLD (dp-accounting"] = 2.38169
    assert said == pytest.approx(known, abs=6e-6)
    assert said["RDP (opacus"] == pytest.approx(said["RDP (dp-accounting"], rel=1e-6)


@settings(max_examples=6, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.floats(1.0, 4.0), st.sampled_from([0.004, 0.03, 0.2, 1.0]), st.integers(1, 60)),
        min_size=1,
        max_size=2,
        unique_by=lambda one: one[:2],
    )
)
def test_pld_is_tight_and_rdp_is_loose(steps: list[tuple[float, float, int]]) -> None:
    """Of unequal events too; PRV lies in between, and adds 0.01 by design, where RDP may be below it."""
    table = {(sigma, rate): count for sigma, rate, count in steps}
    history = history_of(table)
    tight, loose = pld(history, 1e-5), rdp_epsilon(table, 1e-5)
    assert tight <= rdp(history, 1e-5) + 1e-3 and tight <= loose + 1e-3
    if loose < 50.0:
        assert tight - 1e-3 <= prv_epsilon(table, 1e-5) <= tight + 0.021
    assert rdp(history, 1e-5, ORDERS) == pytest.approx(rdp_epsilon(table, 1e-5, ORDERS), rel=1e-9)


@settings(max_examples=4, deadline=None)
@given(sigma=st.floats(1.0, 4.0), rate=st.floats(0.001, 0.3), steps=st.integers(1, 100))
def test_epsilon_is_monotone(sigma: float, rate: float, steps: int) -> None:
    """In steps, rate and 1 / δ it grows, in noise it falls; PLD rounds to 1e-4, up."""
    base = pld(((sigma, rate, steps),), 1e-5) - 1e-3
    assert pld(((sigma, rate, 2 * steps),), 1e-5) >= base
    assert pld(((sigma, min(1.0, 2 * rate), steps),), 1e-5) >= base
    assert pld(((sigma, rate, steps),), 1e-7) >= base
    assert pld(((1.5 * sigma, rate, steps),), 1e-5) <= base + 2e-3


@pytest.mark.parametrize("sigma", [1.0, 5.0, 50.0])
def test_one_full_step_is_the_analytic_gaussian(sigma: float) -> None:
    exact = gaussian_epsilon(1.0 / sigma, 1e-5)
    assert pld(((sigma, 1.0, 1),), 1e-5) == pytest.approx(exact, abs=2e-4)
    assert pld(((sigma, 1.0, 9),), 1e-5) == pytest.approx(gaussian_epsilon(3.0 / sigma, 1e-5), abs=2e-3)


def test_limits() -> None:
    assert pld((), 1e-5) == rdp((), 1e-5) == 0.0
    assert pld(((0.0, 0.1, 1),), 1e-5) == rdp(((0.0, 0.1, 1),), 1e-5) == math.inf
    assert rdp(((0.05, 1.0, 1),), 1e-5) > 200.0
    assert pld(((1e3, 0.5, 3),), 1e-5) < 1e-2 and pld(((1.0, 0.0, 3),), 1e-5) == 0.0


def test_an_epsilon_that_is_too_small_or_too_large_is_no_agreement() -> None:
    tight, loose = 2.38169, 2.59656
    for epsilon, right in ((2.39174, True), (tight, True), (loose, True), (2.3, False), (2.7, False)):
        assert agrees(epsilon, MNIST, 1e-5) is right
    assert not agrees(2.39174, ((1.1, 256 / 60000, 28124),), 1e-5)  # of another history


def test_beyond_the_reach_of_plds_the_renyi_accountants_must_agree() -> None:
    history = ((0.3, 0.5, 100),)
    said = opinions(history, 1e-5)
    assert [one.accountant[:3] for one in said] == ["RDP", "RDP"] and said[0].epsilon > 50.0
    assert agrees(said[0].epsilon, history, 1e-5) and not agrees(1.1 * said[0].epsilon, history, 1e-5)


def test_the_curve_falls_with_delta_and_has_the_delta_asked_for() -> None:
    found = curve(MNIST, 2e-6)
    assert [delta for delta, _ in found] == sorted({*DELTAS, 2e-6}, reverse=True)
    assert [epsilon for _, epsilon in found] == sorted(epsilon for _, epsilon in found)
    assert dict(found)[1e-5] == pytest.approx(2.38169, abs=6e-6)
