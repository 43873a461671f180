"""Samplers: how often each client is asked, and who is there. Bounds are five standard deviations."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from fedlab import plugins
from fedlab.errors import PluginError, UsageError
from fedlab.runtime import SimulationGrid
from fedlab.runtime.devices import Availability, SimulatedFleet
from fedlab.runtime.roster import RosterGrid
from fedlab.runtime.wrapped import WrappedGrid
from fedlab.strategies import SGD, Composition, Learner, Population, Sampler, Synchronous, as_aggregator
from fedlab.strategies.aggregators import mean
from fedlab.strategies.sampling import available, cyclic, poisson, uniform, weighted
from tests.runtime.apps import adding_app, train_messages

RECORDS = (1, 2, 3, 4)


def drawn(
    sampler: Sampler,
    size: int,
    clients: int,
    rounds: int,
    records: Any = None,
    there: Any = None,
    seed: int = 0,
) -> list[list[int]]:
    schedule = Synchronous(size, seed, sampler=sampler, records=records)
    return [schedule.sample(range(2, 2 + clients), number, there) for number in range(1, rounds + 1)]


def spread(count: int, probability: float) -> float:
    """Five standard deviations of a binomial count."""
    return 5 * math.sqrt(count * probability * (1 - probability))


@pytest.mark.parametrize("name", ["uniform", "poisson", "weighted", "cyclic", "available"])
def test_the_draw_depends_on_the_seed_and_the_round_alone(name: str) -> None:
    """Round 7 is the same whether or not rounds 1 to 6 were drawn, and whatever the ids are kept in."""
    sampler = plugins.build("samplers", name)
    records = list(range(1, 31))
    schedule = Synchronous(5, 3, sampler=sampler, records=records)
    before = drawn(sampler, 5, 30, 7, records, seed=3)
    assert schedule.sample(list(range(2, 32)), 7) == before[-1]
    assert len({tuple(picks) for picks in before}) > 1
    assert drawn(sampler, 5, 30, 7, records, seed=4) != before
    for picks in before:
        assert picks == sorted(set(picks)) and set(picks) <= set(range(2, 32))


@pytest.mark.parametrize("sampler", [uniform, poisson, available])
def test_each_client_is_asked_with_probability_size_over_n(sampler: Sampler) -> None:
    """2000 rounds, 3 of 12: 500 times each."""
    asked = Counter(itertools.chain(*drawn(sampler, 3, 12, 2000)))
    assert all(abs(asked[node] - 500) < spread(2000, 0.25) for node in range(2, 14))


def test_poisson_clients_are_asked_independently() -> None:
    """The size of a cohort is binomial: mean 3, variance 12 · 1/4 · 3/4 = 2.25; nobody with probability
    (3/4)¹² = 0.0317; two clients meet with probability 1/16, while uniform sampling has 3·2/(12·11) = 1/22.

    The variance of a sample variance over 2000 rounds is about 2 · 2.25² / 2000, so 5 sd are 0.36.
    """
    draws = drawn(poisson, 3, 12, 2000)
    sizes = np.array([len(picks) for picks in draws])
    assert abs(sizes.mean() - 3) < 5 * math.sqrt(2.25 / 2000)
    assert abs(sizes.var() - 2.25) < 0.36
    assert abs((sizes == 0).sum() - 2000 * 0.75**12) < spread(2000, 0.75**12)
    met = sum({2, 13} <= set(picks) for picks in draws)
    assert abs(met - 125) < spread(2000, 1 / 16)
    assert abs(met - 2000 / 22) > abs(met - 125)


def test_weighted_clients_are_drawn_one_after_the_other_by_what_is_left() -> None:
    """Records 1, 2, 3, 4, two drawn: {i, j} has p_i p_j (1/(1 - p_i) + 1/(1 - p_j)) with p = n / 10, so
    {3, 4} of the last two comes with .12 (1/.7 + 1/.6) = .3714 and {1, 2} with .02 (1/.9 + 1/.8) = .0472."""
    p = np.array(RECORDS) / 10
    draws = Counter(map(tuple, drawn(weighted, 2, 4, 4000, RECORDS)))
    for i, j in itertools.combinations(range(4), 2):
        chance = p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))
        assert abs(draws[i + 2, j + 2] - 4000 * chance) < spread(4000, chance)
    assert p[2] * p[3] * (1 / 0.7 + 1 / 0.6) == pytest.approx(0.3714, abs=5e-5)


def test_who_holds_nothing_is_never_drawn() -> None:
    assert set(itertools.chain(*drawn(weighted, 3, 4, 50, (0, 5, 0, 5)))) == {3, 5}
    with pytest.raises(UsageError, match="needs to know how many records each client holds"):
        drawn(weighted, 3, 4, 1)
    with pytest.raises(UsageError, match="records of 3 clients, but there are 4"):
        drawn(weighted, 3, 4, 1, (1, 2, 3))


@pytest.mark.parametrize(("size", "clients"), [(3, 12), (3, 10), (4, 6), (6, 6)])
def test_cyclic_clients_take_turns(size: int, clients: int) -> None:
    """lcm(n, size) / size rounds are whole passes: each client is asked equally often, and then all over."""
    turns = math.lcm(size, clients) // size
    draws = drawn(cyclic, size, clients, 2 * turns)
    assert all(len(picks) == size for picks in draws)
    assert set(Counter(itertools.chain(*draws[:turns])).values()) == {turns * size // clients}
    assert draws[turns:] == draws[:turns]
    if size < clients:
        assert not set(draws[0]) & set(draws[1]) or 2 * size > clients
        assert drawn(cyclic, size, clients, 1, seed=1) != draws[:1] or size == clients


def test_each_cyclic_pass_may_have_an_order_of_its_own() -> None:
    """10 clients by threes: three rounds a pass, in which nobody is asked twice and one sits out."""

    def sampler(population: Population, size: int, round: int, generator: np.random.Generator) -> list[int]:
        return cyclic(population, size, round, generator, reshuffle=True)

    draws = drawn(sampler, 3, 10, 300)
    passes = [draws[start : start + 3] for start in range(0, 300, 3)]
    assert all(len(set(itertools.chain(*one))) == 9 for one in passes)
    assert len({str(one) for one in passes}) > 90
    asked = Counter(itertools.chain(*draws))
    assert all(abs(asked[node] - 90) < spread(100, 0.9) for node in range(2, 12))


def test_a_million_clients_are_not_looked_at() -> None:
    """Nothing but its length and the chosen places are asked of a population in a range."""

    class Watched:
        asked = 0

        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> int:
            self.asked += 1
            return 2 + index

    nodes: Any = Watched()
    generator = np.random.default_rng(0)
    for sampler in (uniform, poisson):
        nodes.asked = 0
        assert len(sampler(Population(nodes), 20, 1, generator)) == nodes.asked < 60


def test_only_devices_that_are_up_are_asked() -> None:
    """Devices are there for 4 of every 10 seconds. Whoever is asked starts at once: rounds take a second."""
    fleet = SimulatedFleet(30, availability=Availability(period=10.0, up=4.0))
    grid = SimulationGrid(adding_app(), fleet, seed=5)
    schedule = Synchronous(6, 5, sampler=available)
    seen: set[int] = set()
    for number in range(1, 30):
        began = grid.now
        there = {node for node in grid.get_node_ids() if grid.available(node)}
        picks = schedule.sample(grid.get_node_ids(), number, grid.available)
        assert len(picks) == min(6, len(there)) and set(picks) <= there
        assert 0 < len(there) < 30
        grid.send_and_receive(train_messages(picks))
        assert grid.now == began + 1.0, "nobody had to be waited for"
        seen |= set(picks)
    assert len(seen) > 20
    everybody = Synchronous(6, 5).sample(grid.get_node_ids(), 1)
    grid.send_and_receive(train_messages([node for node in everybody if not grid.available(node)]))
    assert grid.now > began + 2.0, "who is not there is waited for"


def test_a_busy_device_is_not_there() -> None:
    grid = SimulationGrid(adding_app(), 2)
    grid.push_messages(train_messages([2]))
    assert not grid.available(2) and grid.available(3)


def test_fewer_are_asked_when_fewer_are_there_and_time_never_stands_still() -> None:
    assert drawn(available, 3, 5, 1, there=lambda node: node in (4, 6)) == [[4, 6]]
    assert [len(picks) for picks in drawn(available, 3, 5, 2, there=lambda node: False)] == [3, 3]


def test_grids_around_grids_know_who_is_there() -> None:
    """On a deployed Grid everybody is that it lists; a roster shows nodes under other ids."""

    class Deployed(WrappedGrid):
        available = None  # type: ignore[assignment]  # as Flower's own Grids have none

    inner = SimulationGrid(adding_app(), SimulatedFleet(9, availability=Availability(10.0, 5.0)), seed=1)
    up = [node for node in range(2, 11) if inner.available(node)]
    assert 0 < len(up) < 9
    assert [node for node in range(2, 11) if WrappedGrid(inner).available(node)] == up
    roster = RosterGrid(inner, list(range(10, 1, -1)))
    assert [node for node in range(2, 11) if roster.available(node)] == sorted(12 - node for node in up)
    assert WrappedGrid(Deployed(inner)).available(2)


def composed(sampler: Sampler, devices: int | SimulatedFleet) -> tuple[Composition, list[Message]]:
    strategy = Composition(Learner(as_aggregator(mean), SGD(), ["w"], 0), Synchronous(3, 0, sampler=sampler))
    grid = WrappedGrid(SimulationGrid(adding_app(), devices))
    model = ArrayRecord({"w": Array(np.zeros(2))})
    return strategy, list(strategy.configure_train(1, model, ConfigRecord(), grid))


def test_a_round_that_asks_nobody_is_skipped_and_says_so() -> None:
    strategy, messages = composed(lambda population, size, round, generator: [], 4)
    assert messages == [] and strategy.aggregate_train(1, []) == (None, None)
    assert "nobody was asked" in strategy.why_skipped


@pytest.mark.parametrize("picks", [[2, 2], [99], ["a"], [None]])
def test_a_sampler_that_names_strangers_is_refused(picks: list[Any]) -> None:
    with pytest.raises(PluginError, match=r"the sampler <lambda> returned .*; expected ids of different"):
        composed(lambda population, size, round, generator: picks, 4)


def test_numpys_ids_are_ids() -> None:
    sampler: Callable[..., Any] = lambda population, size, round, generator: np.array([4, 3])  # noqa: E731
    _, messages = composed(sampler, 4)
    assert [message.metadata.dst_node_id for message in messages] == [3, 4]
