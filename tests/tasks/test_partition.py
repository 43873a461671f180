"""Partitions: exact whatever the parameters, seeded, never short, and skewed as they say.

Those that belong to a paper's data are in test_synthetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.errors import UsageError
from fedlab.seeds import numpy_generator
from fedlab.tasks import Dataset
from fedlab.tasks.partition import PARTITIONS, dirichlet, feature, iid, quantity, shards

property_test = settings(derandomize=True, deadline=None, max_examples=150)


def data(labels: list[int] | np.ndarray, *, classes: int = 10, groups: np.ndarray | None = None) -> Dataset:
    """One pixel per image; its brightness is the record's id."""
    y = np.asarray(labels, dtype=np.int64)
    x = (np.arange(len(y), dtype=np.float32) / max(len(y), 1)).reshape(-1, 1, 1, 1)
    return Dataset("tiny", x, y, classes, "a test", groups=groups)


PARAMS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "iid": st.just({}),
    "dirichlet": st.builds(lambda e: {"alpha": 10.0**e}, st.floats(-4, 6)),
    "shards": st.builds(lambda n: {"per_client": n}, st.integers(1, 3)),
    "quantity": st.builds(lambda e: {"alpha": 10.0**e}, st.floats(-4, 6)),
    "feature": st.builds(lambda s: {"strength": s}, st.floats(0, 1)),
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Dataset, int, int, dict[str, Any], int]:
    name = draw(st.sampled_from(sorted(PARAMS)))
    params = draw(PARAMS[name])
    labels = draw(st.lists(st.integers(0, 9), min_size=1, max_size=60))
    clients = draw(st.integers(1, max(1, len(labels) // params.get("per_client", 1))))
    if clients * params.get("per_client", 1) > len(labels):
        params = {"per_client": 1}
    min_size = draw(st.integers(1, len(labels) // clients))
    groups = draw(st.sampled_from([None, np.arange(len(labels)) % 3]))
    return name, data(labels, groups=groups), clients, min_size, params, draw(st.integers(0, 2**32))


@property_test
@given(requests())
def test_every_partition_is_exact_sorted_seeded_and_never_short(request: Any) -> None:
    name, records, clients, min_size, params, seed = request
    deal = [
        PARTITIONS[name](records, clients, generator=numpy_generator(seed), min_size=min_size, **params)
        for _ in range(2)
    ]
    owned = deal[0]
    assert len(owned) == clients
    assert sorted(np.concatenate(owned).tolist()) == list(range(len(records)))
    assert all(ids.dtype == np.int64 and (np.diff(ids) > 0).all() for ids in owned)
    assert min(len(ids) for ids in owned) >= min_size
    assert all(np.array_equal(a, b) for a, b in zip(*deal, strict=True))


def test_another_seed_deals_otherwise() -> None:
    records = data(np.arange(200) % 10)
    for name in PARAMS:
        partition = PARTITIONS[name]
        if name == "feature":  # without groups, nothing is left to draw at full strength
            continue
        first, second = (partition(records, 5, generator=numpy_generator(seed)) for seed in (1, 2))
        assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True)), name


def test_iid_sizes_differ_by_one_at_most() -> None:
    sizes = [len(ids) for ids in iid(data([0] * 11), 4, generator=numpy_generator(0))]
    assert sorted(sizes) == [2, 3, 3, 3]


def test_shards_give_each_client_few_classes() -> None:
    # 10 classes of 20 in 20 shards of 10: a shard lies inside one class, two shards in two at most.
    records = data(np.repeat(np.arange(10), 20))
    owned = shards(records, 10, generator=numpy_generator(0), per_client=2)
    assert {len(ids) for ids in owned} == {20}
    assert max(len(set(records.y[ids])) for ids in owned) <= 2


def test_alpha_moves_dirichlet_from_one_client_per_class_to_equal_shares() -> None:
    records = data(np.repeat(np.arange(10), 100))
    equal = dirichlet(records, 5, generator=numpy_generator(0), alpha=1e6)
    counts = np.array([np.bincount(records.y[ids], minlength=10) for ids in equal])
    assert abs(counts - 20).max() <= 1
    skewed = dirichlet(records, 5, generator=numpy_generator(0), alpha=1e-4)
    counts = np.array([np.bincount(records.y[ids], minlength=10) for ids in skewed])
    assert (counts.max(axis=0) >= 99).all()  # at most topping up takes a record away


def test_dirichlet_has_the_variance_of_the_distribution() -> None:
    # Var of a symmetric Dirichlet share: (1/K)(1 - 1/K) / (K alpha + 1) = 0.1875 / 3 for K = 4, alpha = 0.5.
    records = data(np.repeat(np.arange(400), 100), classes=400)
    owned = dirichlet(records, 4, generator=numpy_generator(0), alpha=0.5)
    shares = np.array([np.bincount(records.y[ids], minlength=400) for ids in owned]) / 100
    assert shares.mean(axis=1) == pytest.approx(np.full(4, 0.25), abs=0.05)
    assert shares.var() == pytest.approx(0.0625, rel=0.1)


def test_quantity_skews_sizes_and_not_labels() -> None:
    records = data(np.arange(20_000) % 2, classes=2)
    owned = quantity(records, 10, generator=numpy_generator(0), alpha=0.3)
    sizes = np.array([len(ids) for ids in owned])
    assert sizes.max() > 4 * np.median(sizes)
    big = [ids for ids in owned if len(ids) > 1000]
    assert all(abs(records.y[ids].mean() - 0.5) < 0.05 for ids in big)


def test_feature_skew_sorts_by_brightness_and_strength_undoes_it() -> None:
    # The brightness of these images is their id, so full strength gives consecutive runs.
    records = data([0] * 100)
    owned = feature(records, 4, generator=numpy_generator(0))
    assert [ids.tolist() for ids in owned] == [list(range(start, start + 25)) for start in (0, 25, 50, 75)]
    mixed = feature(records, 4, generator=numpy_generator(0), strength=0.0)
    assert max(abs(ids.mean() - 49.5) for ids in mixed) < 15


def test_feature_skew_keeps_groups_together() -> None:
    groups = np.arange(40) % 4
    owned = feature(data([0] * 40, groups=groups), 4, generator=numpy_generator(0))
    assert [set(groups[ids].tolist()) for ids in owned] == [{0}, {1}, {2}, {3}]


def test_topping_up_takes_the_last_record_of_the_richest_lowest_client_first() -> None:
    from fedlab.tasks.partition import _finish

    # Sizes 3, 3, 0 with a minimum of 2: client 0 gives 2 (sizes 2, 3, 1), then client 1 gives 5.
    owned = _finish([np.array([0, 1, 2]), np.array([3, 4, 5]), np.array([], dtype=np.int64)], 2)
    assert [ids.tolist() for ids in owned] == [[0, 1], [3, 4], [2, 5]]


@pytest.mark.parametrize(
    ("name", "clients", "params", "words"),
    [
        ("iid", 11, {}, "11 clients with at least 1 record each need 11, but tiny has 10 for training"),
        ("iid", 5, {"min_size": 3}, "need 15, but tiny has 10 .* or a smaller min_size"),
        ("iid", 0, {}, "clients = 0; expected a whole number"),
        ("iid", 2, {"min_size": 0}, "min_size = 0"),
        ("dirichlet", 2, {"alpha": 0.0}, "alpha = 0.0; expected a number from"),
        ("dirichlet", 2, {"alpha": -1.0}, "alpha = -1.0"),
        ("dirichlet", 2, {"alpha": float("nan")}, "alpha = nan"),
        ("quantity", 2, {"alpha": float("inf")}, "alpha = inf"),
        ("shards", 2, {"per_client": 0}, "per_client = 0"),
        ("shards", 4, {"per_client": 3}, "need 12 records, but tiny has 10"),
        ("feature", 2, {"strength": 1.5}, "strength = 1.5; expected a number from 0 to 1"),
        ("feature", 2, {"strength": float("nan")}, "strength = nan"),
    ],
)
def test_impossible_requests(name: str, clients: int, params: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PARTITIONS[name](data(list(range(10))), clients, generator=numpy_generator(0), **params)
