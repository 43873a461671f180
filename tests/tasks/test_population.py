"""Populations that are never listed: what a client holds is a function of the seed and its number."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.errors import UsageError
from fedlab.seeds import numpy_generator
from fedlab.tasks import Dataset, LazyOwners, Records
from fedlab.tasks.datasets.gaussians import gaussians
from fedlab.tasks.partition import PARTITIONS
from fedlab.tasks.population import KEPT, DrawnOwners, Lazy, drawn, sizes
from tests.tasks.test_partition import data

OWN = gaussians(test_records=10)[0]
"""Every client has records of its own."""


def population(records: Records = OWN, clients: int = 10**8, seed: int = 0, **params: Any) -> DrawnOwners:
    return drawn(records, clients, generator=numpy_generator(seed), **params)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Records, dict[str, Any], int]:
    """Pools of a few records, with classes that have hardly any or none; and clients with their own."""
    labels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=60))
    records = draw(st.sampled_from([OWN, data(labels, classes=6)]))
    least = draw(st.integers(1, len(labels)))
    params = {
        "median": draw(st.floats(0.1, 1e4)),
        "sigma": draw(st.floats(0, 10)),
        "least": least,
        "most": draw(st.integers(least, 100)),
        "alpha": draw(st.one_of(st.none(), st.floats(-4, 6).map(lambda e: 10.0**e))),
    }
    return records, params, draw(st.integers(0, 10**9 - 1))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(requests(), st.integers(0, 2**32))
def test_each_client_has_as_many_records_as_it_says_each_once(request: Any, seed: int) -> None:
    records, params, client = request
    owners = population(records, 10**9, seed, **params)
    ids = owners[client]
    assert ids.dtype == np.int64 and (np.diff(ids) > 0).all()
    assert 0 <= ids[0] and ids[-1] < len(records)
    assert len(ids) == owners.size(client) == sizes(owners)[client]
    assert params["least"] <= owners.least <= len(ids) <= owners.most <= min(params["most"], len(records))
    assert np.array_equal(ids, population(records, client + 1, seed, **params).records(client))


@pytest.mark.parametrize("records", [OWN, data(np.arange(3000) % 10)], ids=["own", "shared"])
def test_nothing_depends_on_what_was_asked_before(records: Records) -> None:
    """Also not on a copy in another process, nor on having been forgotten."""
    owners = population(records, alpha=0.5)
    clients = [0, 1, 10**8 - 1, *range(500, 500 + 2 * KEPT)]
    first = {client: owners[client].copy() for client in clients}
    copy = pickle.loads(pickle.dumps(owners))
    for client in reversed(clients[:100]):
        assert np.array_equal(owners[client], first[client]) and np.array_equal(copy[client], first[client])
    other = population(records, seed=1, alpha=0.5)
    assert any(not np.array_equal(other[client], first[client]) for client in clients[:3])


def test_sizes_are_log_normal_around_the_median() -> None:
    """ln n ~ N(ln 1000, 0.5²): of 4000 clients 5 sd are 0.04 for the mean, 0.028 for the sd."""
    owners = population(median=1000.0, sigma=0.5, least=1, most=60_000)
    logs = np.log([owners.size(client) for client in range(4000)])
    assert abs(logs.mean() - np.log(1000)) < 5 * 0.5 / np.sqrt(4000)
    assert abs(logs.std() - 0.5) < 5 * 0.5 / np.sqrt(2 * 4000)
    held = sizes(population(median=30.0, sigma=2.0, least=20, most=40))
    assert {held[client] for client in range(1000)} >= {20, 40} and not isinstance(held, tuple)


def shares(owners: DrawnOwners, records: Records, clients: int) -> np.ndarray:
    """(clients, classes)"""
    counts = [
        np.bincount(records.labels(owners[client]).numpy(), minlength=records.classes)
        for client in range(clients)
    ]
    return np.array(counts) / 100


@pytest.mark.parametrize("records", [OWN, data(np.arange(20_000) % 10)], ids=["own", "shared"])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_labels_have_the_variance_of_the_distribution(records: Records, alpha: float) -> None:
    """Of 10 classes Var q = v = 0.09 / (10 alpha + 1); with 100 records, a share has v + (0.09 - v) / 100."""
    owners = population(records, median=100.0, sigma=0.0, alpha=alpha)
    found = shares(owners, records, 1500)
    assert found.sum(1) == pytest.approx(np.ones(1500))
    v = 0.09 / (10 * alpha + 1)
    assert found.var() == pytest.approx(v + (0.09 - v) / 100, rel=0.05)
    assert found.mean(0) == pytest.approx(np.full(10, 0.1), abs=5 * np.sqrt(v / 1500))


def test_without_alpha_clients_have_the_labels_of_the_data() -> None:
    """A fifth of the records is of class 0, no other skew: multinomial, Var = 0.2 · 0.8 / 100."""
    records = data((np.arange(5000) % 5 > 0).astype(int), classes=2)
    found = shares(population(records, median=100.0, sigma=0.0), records, 1000)[:, 0]
    assert found.mean() == pytest.approx(0.2, abs=5 * 0.04 / np.sqrt(1000))
    assert found.std() == pytest.approx(0.04, rel=0.15)


def test_a_class_that_runs_out_is_made_up_for_by_the_others() -> None:
    """Clients want one class alone: who wants the five records of class 0 gets all of them, and 45 others."""
    records = data([0] * 5 + [1] * 95, classes=2)
    owners = population(records, median=50.0, sigma=0.0, alpha=1e-4)
    counts = {tuple(np.bincount(records.y[owners[client]], minlength=2).tolist()) for client in range(50)}
    assert counts == {(5, 45), (0, 50)}
    everything = population(records, least=100, most=200)
    assert everything[7].tolist() == list(range(100)) and everything.most == 100


def test_clients_of_a_pool_share_records_and_others_do_not() -> None:
    pool = data(np.arange(100) % 10)
    owners = population(pool)
    assert set(owners[0].tolist()) & set(owners[1].tolist())
    owners = population()
    ids = np.concatenate([owners[client] for client in range(200)])
    assert len(np.unique(ids)) == len(ids)


@pytest.mark.parametrize("records", [OWN, data(np.arange(3000) % 10)], ids=["own", "shared"])
def test_a_population_costs_what_its_active_clients_cost(records: Records) -> None:
    """2000 lookups, more than are remembered, among 10⁴ and among 10⁸: the same memory within 10 %."""

    def peak(clients: int) -> int:
        tracemalloc.start()
        owners = population(records, clients, alpha=0.5)
        for client in np.linspace(0, clients - 1, 2000).astype(int).tolist():
            owners[client]
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(10**4), peak(10**8)
    assert abs(many - few) < 0.1 * few and many < 4e6


def test_what_is_shipped_to_workers_is_small() -> None:
    owners = population()
    for client in range(100):
        owners[client]
        OWN.images(owners[client])
    assert len(pickle.dumps((OWN, owners))) < 10_000


class Everybody(LazyOwners):
    """Client k holds records k and k + 1."""

    def __init__(self, count: int) -> None:
        super().__init__(count, 2, 2)
        self.asked = 0

    def records(self, client: int) -> np.ndarray:
        self.asked += 1
        return np.array([client, client + 1])


def test_lazy_owners_are_a_sequence_that_nobody_walks() -> None:
    owners = Everybody(10**12)
    assert len(owners) == 10**12 and owners[-1].tolist() == [10**12 - 1, 10**12]
    assert [ids.tolist() for ids in owners[10:13]] == [[10, 11], [11, 12], [12, 13]]
    assert len(owners[5:]) == 10**12 - 5 and owners[5:][-1].tolist() == owners[-1].tolist()
    assert owners.size(3) == 2 and owners.asked == 5  # each looked up once
    with pytest.raises(IndexError):
        owners[10**12]
    with pytest.raises(ValueError, match="read-only"):  # it is everybody's copy
        owners[3][0] = 7
    assert list(Lazy(3, lambda index: index * index)) == [0, 1, 4]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"median": 0.0}, "median = 0.0; expected a finite number above 0"),
        ({"median": float("inf")}, "median = inf"),
        ({"sigma": -1.0}, "sigma = -1.0; expected a number from 0 to 10"),
        ({"sigma": float("nan")}, "sigma = nan"),
        ({"least": 0}, "least = 0; expected a whole number"),
        ({"most": 2.5}, "most = 2.5; expected a whole number"),
        ({"alpha": 0.0}, "alpha = 0.0; expected a number from"),
        ({"least": 20, "most": 10}, "least = 20; expected at most 10"),
        ({"least": 31}, "least = 31; expected at most 30"),
        ({"clients": 0}, "clients = 0; expected a whole number"),
    ],
)
def test_impossible_requests(params: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        population(data([0, 1] * 15), **params)


@pytest.mark.parametrize("name", sorted(set(PARTITIONS) - {"drawn", "natural", "dominant"}))
def test_partitions_that_list_point_to_the_one_that_does_not(name: str) -> None:
    with pytest.raises(UsageError, match=r"11 clients .* but tiny has 10 .* partition drawn"):
        PARTITIONS[name](data(list(range(10))), 11, generator=numpy_generator(0))
    with pytest.raises(UsageError, match=r"gaussians are made when they are asked for.*partition drawn"):
        PARTITIONS[name](OWN, 10, generator=numpy_generator(0))


def test_records_of_another_kind_must_say_whose_they_are() -> None:
    class Odd:
        name, classes = "odd", 2

    with pytest.raises(UsageError, match="odd can neither be listed"):
        population(Odd())  # type: ignore[arg-type]
    assert isinstance(OWN, Records) and not isinstance(OWN, Dataset)
