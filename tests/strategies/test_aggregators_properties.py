"""What holds for aggregators whatever the updates are."""

from __future__ import annotations

import functools
from typing import Any

import hypothesis.extra.numpy as hnp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab import plugins
from fedlab.errors import UsageError
from fedlab.strategies import Updates, as_aggregator
from fedlab.strategies.aggregators import PreAggregated, checked, minimum
from fedlab.testing import check_aggregator

N, F = 11, 2
load = functools.cache(plugins.load)  # finding a plugin takes longer than what is tested
ROBUST: dict[str, dict[str, Any]] = {
    "median": {},
    "trimmed-mean": {"f": F},
    "krum": {"f": F},
    "multi-krum": {"f": F},
    "bulyan": {"f": F},
    "geometric-median": {},
    "centered-clipping": {"tau": 1.0},
}
ALL = ROBUST | {"mean": {}, "weighted-mean": {}, "norm-bounding": {"max_norm": 1.0}, "fltrust": {}}
BEFORE: dict[str, dict[str, Any]] = {
    "nnm": {"f": F},
    "bucketing": {"size": 2},
    "clipping": {"max_norm": 1.0},
    "arc": {"f": F},
}


def made(name: str, params: dict[str, Any]) -> Any:
    return as_aggregator(load("aggregators", name)(**params) if params else load("aggregators", name))


def before(name: str) -> Any:
    return load("preaggregators", name)(**BEFORE[name])


def combined(aggregator: Any, deltas: torch.Tensor, root: torch.Tensor | None = None) -> torch.Tensor:
    n = len(deltas)
    given = Updates(deltas, torch.ones(n, dtype=torch.float64), tuple(range(n)), root=root)
    return checked(aggregator, given, {})[0]


drawn = hnp.arrays("float64", (N, 3), elements=st.floats(-10, 10, width=32)).map(torch.from_numpy)
seeded = st.integers(0, 10_000).map(
    lambda seed: torch.randn(N, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
)
"""Updates in general position: among these no two scores of Krum are equal."""
parametrized = pytest.mark.parametrize(("name", "params"), ALL.items(), ids=list(ALL))
robust = pytest.mark.parametrize(("name", "params"), ROBUST.items(), ids=list(ROBUST))


@parametrized
@settings(max_examples=8, deadline=None)
@given(deltas=seeded, order=st.permutations(range(N)))
def test_the_order_of_clients_means_nothing(
    name: str, params: dict[str, Any], deltas: torch.Tensor, order: list[int]
) -> None:
    rule, root = made(name, params), deltas.mean(0)
    torch.testing.assert_close(combined(rule, deltas, root), combined(rule, deltas[order], root))


@pytest.mark.parametrize(
    "name", ["mean", "median", "trimmed-mean", "krum", "multi-krum", "bulyan", "geometric-median"]
)
@settings(max_examples=8, deadline=None)
@given(deltas=seeded, shift=st.floats(-100, 100), scale=st.sampled_from([1e-3, 0.5, 3.0, 1e4]))
def test_moved_and_scaled_updates_move_and_scale_the_result(
    name: str, deltas: torch.Tensor, shift: float, scale: float
) -> None:
    """Not so where a length is fixed: norm bounding, centered clipping (from 0), FLTrust (by its root)."""
    rule = made(name, ALL[name])
    expected, got = scale * combined(rule, deltas) + shift, combined(rule, scale * deltas + shift)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * scale + 1e-9)


@pytest.mark.parametrize("name", ["norm-bounding", "centered-clipping", "fltrust"])
@settings(max_examples=8, deadline=None)
@given(deltas=seeded, scale=st.sampled_from([1e-3, 0.5, 3.0, 1e4]))
def test_rules_with_a_length_scale_with_it(name: str, deltas: torch.Tensor, scale: float) -> None:
    one, other = dict(ALL[name]), {key: scale * value for key, value in ALL[name].items()}
    root = deltas[0]
    torch.testing.assert_close(
        scale * combined(made(name, one), deltas, root),
        combined(made(name, other), scale * deltas, scale * root),
    )


@robust
@settings(max_examples=8, deadline=None)
@given(deltas=drawn, size=st.sampled_from([1e6, -1e6, 1e30]))
def test_f_outliers_do_not_leave_the_honest(
    name: str, params: dict[str, Any], deltas: torch.Tensor, size: float
) -> None:
    """2 of 11 at ±1e6 or 1e30. Coordinatewise rules, Krum's and Bulyan's stay in the honest updates' box.

    The geometric median is no further from the honest than 2 (n − f) / (n − 2f) times the greatest distance
    of one of them from their mean (Lemma 2.1 of Minsker 2015, doubled); centered clipping moves by τ at most.
    """
    honest = deltas.clone()[F:]
    deltas = deltas.clone()
    deltas[:F] = size
    deltas[0, 0] = -size
    found = combined(made(name, params), deltas)
    if name == "centered-clipping":
        assert float(found.norm()) <= params["tau"] * (1 + 1e-9)
    elif name == "geometric-median":
        radius = float((honest - honest.mean(0)).norm(dim=1).max())
        bound = 2 * (N - F) / (N - 2 * F) * radius + 1e-4
        assert float((found - honest.mean(0)).norm()) <= bound
    else:
        assert bool((found >= honest.min(0).values - 1e-9).all())
        assert bool((found <= honest.max(0).values + 1e-9).all())
    assert float(combined(made("mean", {}), deltas).abs().max()) > 1e4, "the mean leaves them"


@settings(max_examples=8, deadline=None)
@given(deltas=seeded, size=st.sampled_from([1e6, 1e30]))
def test_norm_bounding_and_fltrust_bound_what_an_outlier_does(deltas: torch.Tensor, size: float) -> None:
    deltas[:F] = size
    assert float(combined(made("norm-bounding", {"max_norm": 1.0}), deltas).norm()) <= 1 + 1e-9
    root = deltas[F]
    assert float(combined(made("fltrust", {}), deltas, root).norm()) <= float(root.norm()) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("trimmed-mean", {"f": 0}),
        ("multi-krum", {"f": 0}),
        ("bulyan", {"f": 0}),
        ("norm-bounding", {"max_norm": 1e9}),
        ("norm-bounding", {"max_norm": float("inf")}),
        ("geometric-median", {"nu": 1e9}),
    ],
)
@settings(max_examples=10, deadline=None)
@given(deltas=drawn)
def test_without_attackers_it_is_the_mean(name: str, params: dict[str, Any], deltas: torch.Tensor) -> None:
    torch.testing.assert_close(combined(made(name, params), deltas), deltas.mean(0), rtol=1e-9, atol=1e-9)


@given(deltas=drawn)
def test_centered_clipping_without_a_bound_is_the_mean(deltas: torch.Tensor) -> None:
    rule = plugins.load("aggregators", "centered-clipping")(tau=float("inf"))
    torch.testing.assert_close(combined(rule, deltas), deltas.mean(0), rtol=1e-9, atol=1e-9)


@parametrized
def test_equal_updates_are_their_own_aggregate(name: str, params: dict[str, Any]) -> None:
    """Short ones, so that nothing is clipped; the ties of Krum and Bulyan among them."""
    one = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    found = combined(made(name, params), one.repeat(N, 1), one)
    torch.testing.assert_close(found, one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("first", BEFORE)
@parametrized
def test_every_combination_keeps_the_contract(name: str, params: dict[str, Any], first: str) -> None:
    check_aggregator(PreAggregated(before(first), made(name, params)))


@parametrized
def test_every_aggregator_keeps_the_contract(name: str, params: dict[str, Any]) -> None:
    check_aggregator(made(name, params), clients=N)


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("least", [1, 2, 7])
def test_as_many_are_left_as_needed_says(name: str, least: int) -> None:
    """And with one fewer, too few are (or the rule itself cannot work)."""
    rule = before(name)
    n = rule.needed(least)
    deltas = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left = rule(Updates(deltas, torch.ones(n, dtype=torch.float64), tuple(range(n))))
    assert len(left.deltas) >= least
    if n > 2 * F + 1:
        fewer = rule(Updates(deltas[1:], torch.ones(n - 1, dtype=torch.float64), tuple(range(n - 1))))
        assert len(fewer.deltas) < least


@pytest.mark.parametrize(
    ("name", "params", "least"),
    [
        ("trimmed-mean", {"f": 3}, 7),
        ("krum", {"f": 3}, 9),
        ("multi-krum", {"f": 1, "m": 8}, 8),
        ("bulyan", {"f": 3}, 15),
        ("median", {}, 1),
    ],
)
def test_the_least_cohorts(name: str, params: dict[str, Any], least: int) -> None:
    assert minimum(made(name, params)) == least
    assert minimum(PreAggregated(before("bucketing"), made(name, params))) == 2 * least - 1


@pytest.mark.parametrize(
    ("kind", "name", "bad"),
    [
        *(
            ("aggregators", n, {"f": f})
            for n in ("krum", "multi-krum", "bulyan", "trimmed-mean")
            for f in (-1, 1.5, True)
        ),
        ("aggregators", "multi-krum", {"m": 0}),
        *(("aggregators", "norm-bounding", {"max_norm": bound}) for bound in (0.0, -1.0, float("nan"))),
        *(("aggregators", "centered-clipping", {"tau": tau}) for tau in (0.0, float("nan"))),
        ("aggregators", "centered-clipping", {"tau": 1.0, "iterations": 0}),
        ("aggregators", "geometric-median", {"nu": 0.0}),
        ("aggregators", "geometric-median", {"tolerance": float("inf")}),
        ("aggregators", "fltrust", {"root_records": 0}),
        ("preaggregators", "nnm", {"f": -1}),
        ("preaggregators", "bucketing", {"size": 0}),
        ("preaggregators", "clipping", {"max_norm": 0.0}),
        ("preaggregators", "arc", {"f": 0.5}),
    ],
)
def test_arguments_out_of_range_are_refused_in_python_too(kind: str, name: str, bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"{next(reversed(bad))} = .*; expected"):
        plugins.load(kind, name)(**bad)
