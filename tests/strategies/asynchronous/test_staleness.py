"""What stale updates count, by the tables of the papers, and by what their sum is divided."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedlab.errors import PluginError, UsageError
from fedlab.strategies import as_aggregator
from fedlab.strategies.aggregators import mean
from fedlab.strategies.asynchronous.expectation import discard_rate
from fedlab.strategies.asynchronous.fedasync import fedasync
from fedlab.strategies.asynchronous.fedbuff import staleness_of
from fedlab.strategies.asynchronous.staleness import Constant, Hinge, Polynomial, Staleness, Threshold
from tests.strategies.asynchronous.scenes import Late, event_loop, federation, server


@pytest.mark.parametrize(
    ("given", "table"),
    [
        ("constant", [1, 1, 1]),
        ("polynomial", [1, 1 / math.sqrt(2), 1 / math.sqrt(3), 0.5]),
        ({"name": "polynomial", "exponent": 1.0}, [1, 1 / 2, 1 / 3, 1 / 4]),
        ({"name": "hinge", "a": 10.0, "b": 4}, [1, 1, 1, 1, 1, 1 / 11, 1 / 21, 1 / 31]),
        ({"name": "threshold", "cutoff": 2, "value": 0.25}, [1, 1, 1, 0.25, 0.25]),
        ({"name": "threshold", "cutoff": 0}, [1, 0]),
    ],
)
def test_the_tables(given: Any, table: list[float]) -> None:
    weight = staleness_of(given)
    assert [weight.weight(s) for s in range(len(table))] == pytest.approx(table, rel=1e-15)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Polynomial(0.0),
        lambda: Polynomial(math.nan),
        lambda: Hinge(a=-1.0),
        lambda: Hinge(b=-1),
        lambda: Threshold(-1),
        lambda: Threshold(1, 1.5),
        lambda: server(buffer=0, concurrency=1),
        lambda: server(buffer=1, concurrency=0),
        lambda: server(buffer=1, concurrency=1, max_staleness=-1),
        lambda: server(buffer=1, concurrency=1, max_participations=0),
        lambda: server(buffer=1, concurrency=1, division="sum"),
        lambda: server(buffer=1, concurrency=1, division="weights", aggregator=as_aggregator(mean)),
        lambda: staleness_of({"exponent": 0.5}),
        lambda: asynchronous(mixing=0.0),
        lambda: asynchronous(mixing=1.5),
        lambda: asynchronous(cohort=2),
    ],
)
def test_what_is_out_of_range_is_refused(make: Any) -> None:
    with pytest.raises(UsageError, match=r"expected|set it to 1|take"):
        make()


def asynchronous(**options: Any) -> object:
    given = {
        "aggregator": as_aggregator(mean),
        "optimizer": None,
        "cohort": 1,
        "seed": 1,
        "parameters": ["x"],
    }
    return fedasync(**(given | {"concurrency": 2} | options))


@pytest.mark.parametrize("found", [math.nan, -0.1, 1.1, "much", None])
def test_a_weight_that_is_none_is_the_plugins_fault(found: Any) -> None:
    class Own:
        def weight(self, staleness: int) -> float:
            return found  # type: ignore[no-any-return]

    clients, _ = federation([1.0, 2.0], buffer=1, concurrency=2, staleness=Own())
    with pytest.raises(PluginError, match=r"Own\.weight\(0\) = .*; expected a number from 0 to 1"):
        clients.path(2)


@pytest.mark.parametrize(
    ("division", "copies"),
    [("count", (1, 1, 1)), ("count", (1, 2, 5)), ("weights", (1, 1, 1)), ("weights", (1, 2, 5))],
)
def test_by_what_the_sum_is_divided(division: str, copies: tuple[int, ...]) -> None:
    """K = 2, trips of 1, 2.5 and 4 s, w = 1/(1 + s): x ← x + Σ (n/Σ n) w Δ, or Σ n w Δ / Σ n w."""
    times = [1.0, 2.5, 4.0]
    clients, strategy = federation(
        times, buffer=2, concurrency=3, staleness=Polynomial(1.0), division=division, copies=copies
    )

    def step(x: float, held: list[Late]) -> float:
        records = [copies[one.client] for one in held]
        counts = [n / (1 + one.late) for n, one in zip(records, held, strict=True)]
        whole = sum(records) if division == "count" else sum(counts)
        return x + sum(n * one.delta for n, one in zip(counts, held, strict=True)) / whole

    models, _ = event_loop(times, step, 2, 20)
    assert clients.path(20) == pytest.approx(models, rel=1e-12)
    assert max(strategy.staleness_seen) >= 1


def test_an_update_that_is_too_stale_is_thrown_away_and_told() -> None:
    """K = 1, two clients of 1 s and 4.5 s, none older than 3: the slow one's first is 4 versions late. It
    makes no version; the quick one's do."""
    thrown: list[int] = []
    clients, strategy = federation([1.0, 4.5], buffer=1, concurrency=2, max_staleness=3)
    strategy.thrown = thrown.append
    clients.path(8)
    assert strategy.discarded == 1 and thrown == [3]
    assert strategy.staleness_seen == {0: 8, 4: 1}
    kept, strategy = federation([1.0, 4.5], buffer=1, concurrency=2, max_staleness=4)
    kept.path(8)
    assert strategy.discarded == 0


def test_a_weight_of_zero_takes_a_place_in_a_sum_that_is_divided_by_k_and_none_elsewhere() -> None:
    """Threshold with value 0: divided by K, a stale update counts towards K; divided by Σ w it would be 0/0
    alone, so it is thrown away."""
    for division, discarded in (("count", 0), ("weights", 1)):
        clients, strategy = federation(
            [1.0, 4.5], buffer=1, concurrency=2, staleness=Threshold(2), division=division
        )
        clients.path(6)
        assert strategy.discarded == discarded


def test_the_expected_discard_rate() -> None:
    """Half of the devices take 1 s, half 19 s: E[T] = 10 s. M = 10, K = 1: a version a second, if all count.

    None staler than 18: slow trips see 19 versions if all count, so some are lost; none staler than 19:
    nobody. None staler than 4: were the share k kept, slow trips would see 19 k versions. Half of the
    updates are slow: k = 0.5 is what is left when all of them are lost (9.5 > 4), and is consistent.
    """
    times = [1.0, 19.0] * 10
    assert discard_rate(times, 10, 1, 19) == pytest.approx(0.0, abs=1e-9)
    assert 0.0 < discard_rate(times, 10, 1, 18) < 0.5
    assert discard_rate(times, 10, 1, 4) == pytest.approx(0.5)
    assert discard_rate([], 10, 5, 0) == 0.0 and discard_rate([0.0], 10, 5, 0) == 0.0


def test_all_of_them_are_staleness_weights() -> None:
    for one in (Constant(), Polynomial(), Hinge(), Threshold(1)):
        assert isinstance(one, Staleness)
