"""Samplers among 10⁸ clients: what they draw costs what they ask, and is what they would draw from a list."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest

from fedlab.errors import UsageError
from fedlab.seeds import numpy_generator
from fedlab.strategies import Population, Synchronous
from fedlab.strategies.sampling import Sampler, available, cyclic, poisson, uniform, weighted
from fedlab.tasks.datasets.gaussians import gaussians
from fedlab.tasks.population import DrawnOwners, Sizes, drawn

NODES = range(2, 2 + 10**8)


def population(clients: int, **params: Any) -> DrawnOwners:
    return drawn(gaussians(test_records=1)[0], clients, generator=numpy_generator(0), **params)


def there(node: int) -> bool:
    return node % 3 == 0


@pytest.mark.parametrize("sampler", [uniform, poisson, weighted, available])
def test_a_cohort_is_drawn_without_a_list_of_clients(sampler: Sampler) -> None:
    records = Sizes(population(len(NODES)))
    tracemalloc.start()
    schedule = Synchronous(10, 1, sampler=sampler, records=records)
    rounds = [schedule.sample(NODES, number, there) for number in range(1, 6)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    assert rounds == [schedule.sample(NODES, number, there) for number in range(1, 6)]
    for asked in rounds:
        assert asked == sorted(set(asked)) and all(node in NODES for node in asked)
    assert len({node for asked in rounds for node in asked}) == sum(map(len, rounds))
    if sampler is not poisson:
        assert {len(asked) for asked in rounds} == {10}
    if sampler is available:
        assert all(there(node) for asked in rounds for node in asked)


def test_whoever_is_there_is_asked_and_no_more_than_a_share_is_looked_at() -> None:
    looked = Counter[int]()

    def hardly(node: int) -> bool:
        looked[node] += 1
        return node % 20 == 0

    asked = available(Population(NODES, available=hardly), 30, 1, numpy_generator(0))
    assert len(asked) == 30 and all(node % 20 == 0 for node in asked)
    assert looked.total() == len(looked) < 3000
    nobody = available(Population(NODES, available=lambda node: False), 30, 1, numpy_generator(0))
    assert len(nobody) == 30  # as `uniform` would


def test_weighted_draws_without_a_list_are_those_of_the_race() -> None:
    """Two of 60, one after the other: k is among them with p_k + Σ_{j≠k} p_j p_k / (1 - p_j); 5 sd."""
    owners = population(60, median=8.0, least=1, most=40)
    records = Sizes(owners)
    share = np.array([owners.size(client) for client in range(60)], dtype=np.float64)
    share /= share.sum()
    second = (share / (1 - share)).sum() - share / (1 - share)
    expected = share * (1 + second)
    for known in (records, list(records)):
        generator = numpy_generator(3)
        asked = Counter[int]()
        for _ in range(6000):
            picks = weighted(Population(range(60), known), 2, 1, generator)
            assert len(set(picks)) == 2
            asked.update(picks)
        found = np.array([asked[client] for client in range(60)]) / 6000
        assert (abs(found - expected) < 5 * np.sqrt(expected / 6000)).all()


def test_weighted_asks_everybody_where_all_are_wanted() -> None:
    records = Sizes(population(12))
    assert weighted(Population(range(12), records), 12, 1, numpy_generator(0)) == list(range(12))


def test_an_order_of_all_clients_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r'"cyclic" puts all clients in order, but 100000000 are more.*"uniform"'
    ):
        cyclic(Population(NODES), 10, 1, numpy_generator(0))
