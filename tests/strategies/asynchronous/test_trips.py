"""Who trains when: never twice at once, never more than M, each from the model that is newest then."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.errors import FedlabError, PluginError, UsageError
from fedlab.runtime import SimulationGrid
from fedlab.runtime.arrays import array_record
from fedlab.runtime.availability import Availability
from fedlab.runtime.devices import Fleet, SimulatedFleet
from fedlab.runtime.times import HalfNormal
from fedlab.strategies.asynchronous import Buffered
from fedlab.strategies.asynchronous.recruiting import Recruiting
from fedlab.strategies.rounds import Round, rounds
from fedlab.strategies.sampling import Population, available, cyclic, poisson, weighted
from tests.runtime.apps import squares_app
from tests.strategies.asynchronous.scenes import SEED, Books, half_normal, server

START = array_record({"x": torch.zeros(2, dtype=torch.float64)})


def run(
    strategy: Buffered, fleet: Fleet | int, number: int = 10, **options: Any
) -> tuple[list[Round], Books, SimulationGrid]:
    grid = SimulationGrid(squares_app(), fleet, seed=SEED)
    books = Books(grid)
    return list(rounds(strategy, books, START, last=number, **options)), books, grid


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 60),
    concurrency=st.integers(1, 12),
    buffer=st.integers(1, 9),
    dropout=st.sampled_from([0.0, 0.3]),
    equal=st.booleans(),
    timeout=st.sampled_from([None, 0.7]),
)
def test_a_client_never_trains_twice_at_once(
    count: int, concurrency: int, buffer: int, dropout: float, equal: bool, timeout: float | None
) -> None:
    """`Books` fails at the first that does. N = M, N < M (then all train), a population listed or not."""
    times = [1.0] if equal else half_normal(7)
    if timeout is not None:
        times = [min(one, 1.2) for one in times] + [0.5]
    strategy = server(buffer=buffer, concurrency=concurrency)
    made, books, _ = run(strategy, SimulatedFleet(count, time=times, dropout=dropout), 8, timeout=timeout)
    assert len(made) == 8 and books.most == min(count, concurrency)
    assert len(strategy.trips) + len(strategy._arrived) >= len(books.busy)


def test_whoever_comes_back_is_replaced_by_one_with_the_newest_model() -> None:
    """K = 2, M = 3, all equally quick: three arrive at once. The first two make version 2; all three are
    replaced afterwards, by clients that get it; of those the first completes the buffer, and so on."""
    made, books, _ = run(server(buffer=2, concurrency=3), 50, 6)
    assert [one.number for one in made] == [1, 2, 3, 4, 5, 6]
    starts = Counter((seconds, version) for seconds, _, version in books.asked)
    # by 1 s three updates are in: one model, one held; by 2 s six: three models; by 3 s nine: four; then six.
    assert starts == {(0.0, 1): 3, (1.0, 2): 3, (2.0, 4): 3, (3.0, 5): 3}
    assert [version for _, _, version in books.asked] == sorted(version for _, _, version in books.asked)


def test_the_order_of_events_under_ties_is_that_of_sending() -> None:
    """The same fleet twice; every device takes 1, 2 or 3 s, so that many arrive at the same time."""
    fleet = SimulatedFleet(30, time=[1.0, 2.0, 3.0])
    found = []
    for _ in range(2):
        made, books, grid = run(server(buffer=3, concurrency=7), fleet, 20)
        found.append((books.asked, [one.arrays["x"].numpy().tolist() for one in made], grid.now))
    assert found[0] == found[1]


def test_mean_staleness_follows_littles_law() -> None:
    """M = 40 clients train at a time, for E[T] s; M/E[T] updates arrive a second and K = 5 make a version, so
    that a trip sees M/K = 8 versions made on average. Counted over the uploads of 400 versions.

    Tolerance. s is the number of versions in a trip of T seconds: λT/K with λ = M/E[T], so its mean is 8 and
    its standard deviation that of T over E[T] (0.56 for 0.1 + |N(0, 1)|) times 8, 4.5. Of n = 2,000 uploads
    the mean has 4.5/√2000 = 0.1. The start has a bias of its own: the first M uploads of the run are drawn by
    who is quick and see fewer versions, at most 8 each: 40·8/2000 = 0.16; and an update that completes a
    buffer counts the versions before its own, so that each trip sees (K − 1)/2K of a version less: at most
    0.5. Together 0.5 + 0.16 + 3·0.1 = 0.96.
    """
    fleet = SimulatedFleet(5_000, time=half_normal(5_000))
    strategy = server(buffer=5, concurrency=40)
    run(strategy, fleet, 400)
    facts = strategy.facts()
    assert sum(count for _, count in facts["staleness"]) == 2_000
    assert facts["mean_staleness"] == pytest.approx(8.0, abs=0.96)


@pytest.mark.parametrize("most", [1, 3])
def test_nobody_is_asked_more_often_than_allowed_and_then_it_ends(most: int) -> None:
    """Ten clients, K = 4: 10·most updates make ⌊10·most/4⌋ models; the rest stays in the buffer."""
    strategy = server(buffer=4, concurrency=3, max_participations=most)
    made, books, _ = run(strategy, SimulatedFleet(10, time=half_normal(10)), 100)
    assert Counter(node for _, node, _ in books.asked) == dict.fromkeys(range(2, 12), most)
    assert len(made) == 10 * most // 4
    assert strategy.ended == f"every client was asked {most} times (max_participations)"
    facts = strategy.facts()
    assert (facts["left_in_buffer"], facts["under_way"]) == (10 * most % 4, 0)
    assert facts["ended"] == strategy.ended


def test_what_is_left_at_the_end_is_told() -> None:
    """K = 2, M = 5 at once: two models of four updates, the fifth has arrived and makes none."""
    strategy = server(buffer=2, concurrency=5)
    run(strategy, 20, 2)
    assert (strategy.facts()["left_in_buffer"], strategy.facts()["under_way"]) == (1, 0)


def test_a_buffer_that_holds_more_than_train_at_once_is_filled_all_the_same() -> None:
    """K = 6, M = 2, equally quick: three waves of the same model, none of them stale."""
    strategy = server(buffer=6, concurrency=2)
    made, books, grid = run(strategy, 3, 2)
    assert len(made) == 2 and grid.now == 6.0
    assert strategy.staleness_seen == {0: 12}
    assert "holds more updates than clients train at once" in strategy.cautions([1.0])[0]
    told = Counter((node, version) for _, node, version in books.asked)
    assert max(told.values()) > 1, "somebody was sent the same model again"


@pytest.mark.parametrize("timeout", [0.1, 0.2, 0.3, 0.7, 1.1])
def test_whoever_takes_too_long_is_replaced(timeout: float) -> None:
    """Odd devices never finish in time. Deadlines are sums of decimal fractions that binary numbers round."""
    strategy = server(buffer=3, concurrency=4)
    fleet = SimulatedFleet(40, time=[timeout / 3, 50.0])
    made, books, grid = run(strategy, fleet, 12, timeout=timeout)
    assert all(one.updated for one in made) and grid.now < 50.0
    slow = [seconds for seconds, node, _ in books.asked if node % 2]
    assert len(slow) > 4 and all(seconds < grid.now for seconds in slow)
    assert len(books.busy) <= 4


def test_a_run_in_which_all_clients_fail_says_so_at_every_step_and_does_not_hang() -> None:
    """4 (M + K) = 20 failures in a row are a step without a model."""
    strategy = server(buffer=2, concurrency=3)
    made, books, _ = run(strategy, SimulatedFleet(9, dropout=0.999999), 3)
    assert [one.updated for one in made] == [False] * 3
    assert len(books.asked) == 60
    assert strategy.why_skipped == "20 replies in a row brought nothing: 20 failed"


def test_a_deadline_that_nobody_meets_is_said_at_every_step_and_does_not_hang() -> None:
    """Three at a time are called off each second: seven times, 21 >= 4 (M + K) = 20, for each step."""
    strategy = server(buffer=2, concurrency=3)
    made, books, grid = run(strategy, SimulatedFleet(9, time=[5.0]), 2, timeout=1.0)
    assert [one.updated for one in made] == [False] * 2
    assert len(books.asked) == 42 and grid.now == 14.0
    assert strategy.why_skipped == "21 replies in a row brought nothing: 21 late"


def test_a_fleet_that_is_gone_for_good_ends_the_run() -> None:
    class Gone:
        """A trace after whose end nobody is there."""

        def next_online(self, at: float, device: int, seed: int) -> float:
            return at if at < 1.0 else float("inf")

        def online_until(self, count: int) -> float:
            return 1.0

    fleet = SimulatedFleet(4, time=[0.75], availability=Gone())
    for timeout in (None, 5.0):
        with pytest.raises(FedlabError, match="no device is ever there again"):
            run(server(buffer=1, concurrency=2), fleet, 50, timeout=timeout)


def test_an_empty_grid_is_told() -> None:
    class Nobody(SimulationGrid):
        def get_node_ids(self) -> range:
            return range(0)

    with pytest.raises(FedlabError, match="no node to train on"):
        list(rounds(server(buffer=1, concurrency=1), Nobody(squares_app(), 1), START, last=1))


def nonsense(population: Population, size: int, round: int, generator: np.random.Generator) -> Any:
    return ["x"]


def strangers(population: Population, size: int, round: int, generator: np.random.Generator) -> Any:
    return [10_000]


def greedy(population: Population, size: int, round: int, generator: np.random.Generator) -> Any:
    return list(population.nodes)


def lazy(population: Population, size: int, round: int, generator: np.random.Generator) -> Any:
    return []


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        (nonsense, "the sampler nonsense returned .*'x'"),
        (strangers, "the sampler strangers returned .*10000"),
        (greedy, "the sampler greedy returned 9 clients; expected at most 2"),
    ],
)
def test_a_samplers_nonsense_is_named(sampler: Any, told: str) -> None:
    with pytest.raises(PluginError, match=told):
        run(server(buffer=1, concurrency=2, sampler=sampler), 9)


def test_a_sampler_that_draws_nobody_leaves_nothing_to_wait_for() -> None:
    with pytest.raises(FedlabError, match="drew nobody while nobody trains"):
        run(server(buffer=1, concurrency=2, sampler=lazy), 9)


@pytest.mark.parametrize("sampler", [poisson, cyclic])
def test_samplers_of_whole_rounds_are_refused(sampler: Any) -> None:
    with pytest.raises(UsageError, match="plans whole rounds"):
        Recruiting(sampler, SEED)


@pytest.mark.parametrize("count", [12, 400])
def test_clients_that_are_there_are_asked_at_once(count: int) -> None:
    """Devices that are there for half of the day, each at its own time: nobody who is away is asked as long
    as somebody is there, in a population that is listed and in one that is not."""
    fleet = SimulatedFleet(
        count, time=HalfNormal(scale=0.05), availability=Availability(period=24.0, up=12.0)
    )
    strategy = server(buffer=2, concurrency=3, sampler=available)
    grid = SimulationGrid(squares_app(), fleet, seed=SEED)
    away: list[float] = []

    class Looking(Books):
        def _sent(self, ids: Any, messages: Any) -> None:
            super()._sent(ids, messages)
            away.extend(
                flight.start - self.now for flight in grid._flights if flight.id in ids and not flight.reply
            )

    made = list(rounds(strategy, Looking(grid), START, last=30))
    assert len(made) == 30 and away and max(away) == 0.0


@pytest.mark.parametrize("count", [0, 3, 10])
def test_of_a_large_population_nobody_is_listed_however_few_are_there(count: int) -> None:
    """Ten of 10^8 are wanted, and `count` are found to be there, every tenth that is looked at. If nobody is,
    ten are asked all the same; even ones are busy."""
    looked = 0

    def present(node: int) -> bool:
        nonlocal looked
        looked += 1
        assert looked <= 64 * 10, "all are looked through"
        return looked % 10 == 0 and looked <= 10 * count

    found = Recruiting(available, SEED)(range(10**8), 10, lambda node: node % 2 == 0, 0, present)
    assert len(set(found)) == (count or 10) and all(node % 2 for node in found)


def test_a_sampler_that_needs_a_list_is_refused_in_a_large_population() -> None:
    with pytest.raises(UsageError, match="more than 10000000; take"):
        Recruiting(weighted, SEED)(range(10**8), 1, lambda node: False, 0, None)


def test_weighted_sampling_never_asks_a_client_without_records() -> None:
    records = [0, 5, 0, 9, 1, 0]
    strategy = server(buffer=1, concurrency=2, sampler=weighted, records=records)
    _, books, _ = run(strategy, SimulatedFleet(6, time=half_normal(6)), 40)
    asked = Counter(node - 2 for _, node, _ in books.asked)
    assert set(asked) == {1, 3, 4} and asked[3] > asked[4]


def test_versions_never_run_backwards_and_time_neither() -> None:
    _, books, _ = run(server(buffer=3, concurrency=9), SimulatedFleet(100, time=half_normal(100)), 40)
    for (earlier, _, old), (later, _, new) in pairwise(books.asked):
        assert earlier <= later and old <= new
