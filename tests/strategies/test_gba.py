"""GBA: tokens, the constant global batch, and what a switch between its modes leaves as it was.

The clients are those of `tests.clients.quadratics`, f_i(x) = a_i (x − b_i)²/2 with one full step each: their
updates are Δ_i(x) = −η a_i (x − b_i).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.clients.rules import LocalRule
from fedlab.errors import DataError
from fedlab.runtime import SimulationGrid
from fedlab.runtime.devices import SimulatedFleet
from fedlab.runtime.storage import Reader
from fedlab.strategies import SGD, Learner, Momentum, ServerOptimizer, as_aggregator
from fedlab.strategies.aggregators import mean
from fedlab.strategies.asynchronous.fedbuff import fedbuff
from fedlab.strategies.asynchronous.gba import GBA, gba
from fedlab.strategies.asynchronous.trips import Trip
from tests.clients.quadratics import CENTRES, CURVATURES, FIVE, Federation

RATE = 0.1
ONE = replace(FIVE, local_steps=1)
SLOW = (2.0, 3.5, 11.0)
"""Seconds per trip, such that no two arrive at the same time before the twelfth second but in pairs."""


def federation(
    times: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    optimizer: ServerOptimizer | None = None,
    dropout: float = 0.0,
    copies: Sequence[int] = (1, 1, 1),
    cohort: int = 3,
    **options: Any,
) -> tuple[Federation, GBA]:
    """Three clients that take these seconds; M = `cohort`, W = 3 unless given."""
    clients = Federation(LocalRule(), ONE, copies=copies)
    fleet = SimulatedFleet(3, time=list(times), dropout=dropout)
    clients.grid = SimulationGrid(clients.app, fleet, chunk=3)
    strategy = gba(
        aggregator=as_aggregator(mean),
        optimizer=optimizer or SGD(),
        cohort=cohort,
        seed=3,
        parameters=["x"],
        **{"concurrency": 3, "tolerance": 2} | options,
    )
    assert isinstance(strategy, GBA)
    clients.strategy = strategy  # type: ignore[assignment]
    return clients, strategy


def update(client: int, x: float) -> float:
    return -RATE * CURVATURES[client] * (x - CENTRES[client])


def tokens(strategy: GBA) -> list[int]:
    """Those of the trips to come, in the order of their start."""
    found: list[int] = []
    start = strategy.trips.start

    def noted(message_id: str, trip: Trip) -> None:
        found.append(trip.token)
        start(message_id, trip)

    strategy.trips.start = noted  # type: ignore[method-assign]
    return found


def test_without_stragglers_each_step_is_one_of_sgd_on_the_batch_of_all() -> None:
    """M clients with B = 2 records each: x ← x − η (1/6) Σ over the 6 records of a (x − b), in float64. Sums
    are taken in another order than here, so that a few units in the last place may differ, and no more."""
    clients, _ = federation(copies=(2, 2, 2))
    x, records = 0.0, [i for i in range(3) for _ in range(2)]
    for found in clients.path(30):
        x -= RATE * sum(CURVATURES[i] * (x - CENTRES[i]) for i in records) / 6
        assert found == pytest.approx(x, rel=0, abs=4e-16)


@pytest.mark.parametrize(
    "options",
    [
        {"begin": "async"},
        {"begin": "sync"},
        {"begin": "sync", "switch": [{"round": 6, "to": "async"}]},
        {"begin": "async", "switch": [{"round": 4, "to": "sync"}, {"round": 9, "to": "async"}]},
    ],
)
def test_with_equal_devices_no_switch_changes_a_bit(options: dict[str, Any]) -> None:
    """Nor the optimizer's memory: all is as FedAvg's rounds with server momentum, which know no modes."""
    clients, strategy = federation(optimizer=Momentum(0.5, beta=0.9), **options)
    plain = Federation(LocalRule(), ONE)
    plain.strategy.learner = Learner(as_aggregator(mean), Momentum(0.5, beta=0.9), ["x"], 3)
    assert clients.path(12) == plain.path(12)
    assert strategy.zeroed == 0 and strategy.facts()["behind"] == [[0, 36]]


def test_what_is_too_late_counts_nothing_and_is_divided_by_all_the_same() -> None:
    """M = 2, W = 3 = everybody, trips of 2, 3.5 and 11 s; "B2" is a trip of B with token 2.

    0 s: A0, B0, C1 start, with x0. 2: A0 is in; A1 starts. 3.5: B0 is in: x1. B2 starts. 4: A1, which had x0,
    is in; A2 starts. 6: A2 is in: x2. A3 starts. 7: B2, which had x1, is in; B3 starts. 8: A3: x3. A4 starts.
    10: A4 is in; A4 again. 10.5: B3, which had x2: x4. B5. 11: C1, which had x0, in step 4: 3 behind; C5.
    12: A4, which had x3: x5, of which C1 is no part if ι = 2, and is one if ι = 3.
    """
    x = [0.0]
    x.append(x[0] + (update(0, x[0]) + update(1, x[0])) / 2)
    x.append(x[1] + (update(0, x[0]) + update(0, x[1])) / 2)
    x.append(x[2] + (update(1, x[1]) + update(0, x[2])) / 2)
    x.append(x[3] + (update(0, x[3]) + update(1, x[2])) / 2)
    for tolerance, late in ((2, 0.0), (3, update(2, x[0]))):
        clients, strategy = federation(SLOW, cohort=2, tolerance=tolerance)
        handed_out = tokens(strategy)
        thrown: list[int] = []
        strategy.thrown = thrown.append
        expected = [*x[1:], x[4] + (late + update(0, x[3])) / 2]
        assert clients.path(5) == pytest.approx(expected, rel=0, abs=1e-15)
        assert clients.grid.now == 12.0
        assert handed_out == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        assert strategy.zeroed == len(thrown) == (tolerance == 2)
        facts = strategy.facts()
        assert facts["zeroed"] == strategy.zeroed and facts["discarded"] == 0
        assert facts["behind"] == [[-1, 3], [0, 6], [3, 1]]
        assert sum(count for _, count in facts["staleness"]) == 10


@given(
    times=st.lists(st.floats(0.1, 20.0), min_size=3, max_size=3),
    cohort=st.integers(1, 4),
    concurrency=st.integers(1, 3),
    switch=st.integers(2, 6),
)
def test_each_token_is_given_m_times_whatever_the_mode(
    times: list[float], cohort: int, concurrency: int, switch: int
) -> None:
    clients, strategy = federation(
        times, cohort=cohort, concurrency=concurrency, begin="sync", switch=[{"round": switch, "to": "async"}]
    )
    handed_out = tokens(strategy)
    clients.path(8)
    assert handed_out == [number // cohort for number in range(len(handed_out))]
    facts = strategy.facts()
    used = sum(count for _, count in facts["behind"])
    assert used == 8 * cohort == len(handed_out) - facts["under_way"] - facts["left_in_buffer"]


def test_a_failed_trip_gives_its_place_back() -> None:
    """Half of the trips bring nothing; in mode "sync" all others are for the step that is made, so that
    every one of 3 gradients a step is fresh. Tokens that count trips would be ahead by the failures."""
    clients, strategy = federation(dropout=0.5, begin="sync")
    handed_out = tokens(strategy)
    clients.path(20)
    assert strategy.facts()["behind"] == [[0, 60]] and strategy.facts()["staleness"] == [[0, 60]]
    assert len(handed_out) > 90 and handed_out[-1] == 19
    assert all(handed_out.count(step) >= 3 for step in range(20))


def test_a_synchronous_step_waits_for_the_slowest() -> None:
    clients, strategy = federation(SLOW, begin="sync", tolerance=0)
    clients.path(3)
    assert clients.grid.now == 33.0 and len(strategy.trips) == 0 and strategy.zeroed == 0


def test_trips_under_way_at_a_switch_count_and_then_all_start_together() -> None:
    """M = W = 3; "B1" is a trip of B with token 1.

    0 s: A0, B0, C0 start. 2: A0 is in; A1 starts. 3.5: B0 is in; B1 starts. 4: A1: x1, and from here on
    "sync". B1 and C0 are under way: A1 starts, for the step needs one more. 6: A1, 7: B1, which had x0, 11:
    C0, which had x0 and is 1 behind: x2. All start at 11, and are in at 22; again, at 33.
    """
    switch = [{"round": 2, "to": "sync"}]
    clients, strategy = federation(SLOW, tolerance=1, switch=switch)
    handed_out = tokens(strategy)
    x = [0.0]
    x.append(x[0] + (update(0, x[0]) + update(1, x[0]) + update(0, x[0])) / 3)
    x.append(x[1] + (update(0, x[1]) + update(1, x[0]) + update(2, x[0])) / 3)
    for step in (2, 3):
        x.append(x[step] + sum(update(i, x[step]) for i in range(3)) / 3)
    ends = []
    for expected in x[1:]:
        assert clients.after(1) == pytest.approx(expected, rel=0, abs=1e-15)
        ends.append(clients.grid.now)
    assert ends == [4.0, 11.0, 22.0, 33.0]
    assert handed_out == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3] and len(strategy.trips) == 0
    facts = strategy.facts()
    assert facts["begin"] == "async" and facts["switches"] == [[2, "sync"]]
    assert facts["behind"] == [[-1, 1], [0, 10], [1, 1]] and facts["zeroed"] == 0


@pytest.mark.parametrize("stop", [1, 3, 5, 6, 8])
def test_a_run_that_goes_on_goes_over_its_switches_to_the_same_bits(stop: int) -> None:
    """To "sync" in round 4 and back in round 7; what is written down is JSON, tensors and tokens."""
    options: dict[str, Any] = {
        "cohort": 2,
        "tolerance": 1,
        "optimizer": Momentum(0.5, beta=0.9),
        "switch": [{"round": 4, "to": "sync"}, {"round": 7, "to": "async"}],
    }
    whole, all_along = federation(SLOW, **options)
    expected = whole.path(12)
    before, killed = federation(SLOW, **options)
    before.path(stop)
    snapshot, grid = killed.snapshot(), before.grid.snapshot()
    snapshot.values = json.loads(json.dumps(snapshot.values))
    reader = Reader(snapshot.get("records"))
    under_way = [Trip.read(one, reader, {}).token for _, one in snapshot.values["trips"]["open"]]
    assert under_way == [trip.token for _, trip in killed.trips.items()]
    after, goes_on = federation(SLOW, **options)
    goes_on.restore(snapshot)
    after.grid.restore(grid)
    after.arrays, after.round = before.arrays, before.round
    assert after.path(12 - stop) == expected[stop:]
    assert goes_on.facts() == all_along.facts() and goes_on.facts()["zeroed"] > 0
    with pytest.raises(DataError, match="another algorithm than gba"):
        goes_on.restore(_fedbuff().snapshot())  # type: ignore[attr-defined]


def _fedbuff() -> object:
    return fedbuff(
        aggregator=as_aggregator(mean), optimizer=SGD(), cohort=2, seed=3, parameters=["x"], concurrency=3
    )
