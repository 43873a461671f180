"""Whom the server asks."""

from __future__ import annotations

import math

import pytest

from fedlab.errors import UsageError
from fedlab.strategies import Synchronous


@pytest.mark.parametrize(
    ("cohort", "factor", "clients", "asked"),
    [
        (10, 1.0, 100, 10),
        (10, 1.3, 100, 13),
        (10, 1.25, 100, 13),  # 12.5, rounded up
        (10, 1.1, 100, 11),  # 11.000000000000002 in floating point
        (3, 1.01, 100, 4),
        (10, 1.3, 12, 12),  # no more than there are
        (10, 100.0, 10, 10),
    ],
)
def test_over_selection_asks_more_than_the_cohort(
    cohort: int, factor: float, clients: int, asked: int
) -> None:
    nodes = range(2, 2 + clients)
    picks = Synchronous(cohort, seed=3, over_selection=factor).sample(nodes, 1)
    assert len(picks) == len(set(picks)) == asked
    assert picks == sorted(picks) and set(picks) <= set(nodes)


def test_without_over_selection_the_draws_are_those_of_the_plain_schedule() -> None:
    nodes = range(2, 1_000_002)
    plain = Synchronous(5, seed=1)
    assert plain.sample(nodes, 3) == Synchronous(5, seed=1, over_selection=1.0).sample(nodes, 3)
    assert plain.sample(nodes, 3) != plain.sample(nodes, 4)
    assert plain.sample(nodes, 3) != Synchronous(5, seed=2).sample(nodes, 3)


def test_every_client_is_asked_equally_often() -> None:
    """400 rounds of 5 + 1 among 20: 120 each, +- 5 standard deviations of 9.2."""
    schedule = Synchronous(5, seed=0, over_selection=1.2)
    asked = [node for number in range(400) for node in schedule.sample(range(20), number)]
    assert all(74 < asked.count(node) < 166 for node in range(20))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="a cohort of 5 cannot be drawn from 4 clients"):
        Synchronous(5, seed=0, over_selection=2.0).sample(range(4), 1)
    with pytest.raises(UsageError, match="at least one client, got 0"):
        Synchronous(0, seed=0)
    for factor in (0.9, math.nan, math.inf):
        with pytest.raises(UsageError, match="expected a finite number of at least 1"):
            Synchronous(1, seed=0, over_selection=factor)


def test_over_selection_asks_in_a_drawn_order_so_that_nobody_is_always_last() -> None:
    """Of 4 equally quick clients of whom 2 count, each comes first or second in half of the rounds."""
    schedule = Synchronous(2, seed=0, over_selection=2.0)
    cohort = schedule.sample(range(4), 1)
    heard = [schedule.order(cohort, round)[:2] for round in range(200)]
    counts = [sum(client in first for first in heard) for client in range(4)]
    assert all(70 <= count <= 130 for count in counts)  # 100 each; 4 standard deviations are 28
    assert schedule.order(cohort, 7) == schedule.order(cohort, 7)
    assert Synchronous(4, seed=0).order([0, 1, 2, 3], 1) == [0, 1, 2, 3]
