"""Aggregators on deltas: exact values, contract, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import PluginError, UsageError
from fedlab.strategies import SGD, Synchronous, Updates, as_aggregator
from fedlab.strategies.aggregators import checked, mean, median, weighted_mean

DELTAS = torch.tensor([[1.0, 10.0], [2.0, 0.0], [6.0, -1.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)


def test_exact_values() -> None:
    """Means (9/3, 9/3); weighted (1+2+12)/4 and (10+0-2)/4; medians 2 and 0."""
    assert mean(DELTAS, WEIGHTS).tolist() == [3.0, 3.0]
    assert weighted_mean(DELTAS, WEIGHTS).tolist() == [3.75, 2.0]
    assert median(DELTAS, WEIGHTS).tolist() == [2.0, 0.0]


@given(st.integers(1, 9), st.integers(0, 1000))
def test_median_is_numpys(n: int, seed: int) -> None:
    deltas = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 4)))
    assert np.array_equal(median(deltas, torch.ones(n)).numpy(), np.median(deltas.numpy(), axis=0))


@given(st.integers(0, 1000), st.permutations(range(5)))
def test_order_of_clients_does_not_matter(seed: int, order: list[int]) -> None:
    deltas = torch.from_numpy(np.random.default_rng(seed).normal(size=(5, 3)))
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    for function in (mean, weighted_mean, median):
        torch.testing.assert_close(function(deltas, weights), function(deltas[order], weights[order]))


def test_functions_classes_and_objects_are_accepted() -> None:
    class Doubling:
        def aggregate(self, updates: Updates, state: dict[str, int]) -> tuple[torch.Tensor, dict[str, int]]:
            return 2 * updates.deltas.mean(0), {"seen": state.get("seen", 0) + 1}

    updates = Updates(DELTAS, WEIGHTS, (0, 1, 2))
    for candidate in (Doubling, Doubling()):
        delta, state = checked(as_aggregator(candidate), updates, {})
        assert delta.tolist() == [6.0, 6.0] and state == {"seen": 1}
    assert checked(as_aggregator(mean), updates, {})[0].tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda d, w: d, r"returned \(3, 2\); expected a tensor of shape \(2,\)"),
        (lambda d, w: [1.0, 2.0], "returned list"),
        (lambda d, w: d.mean(0) * float("nan"), "non-finite"),
    ],
)
def test_wrong_answers_are_refused(answer: object, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        checked(as_aggregator(answer), Updates(DELTAS, WEIGHTS, (0, 1, 2)), {})


def test_what_is_no_aggregator_is_refused() -> None:
    with pytest.raises(PluginError, match=r"function \(deltas, weights\)"):
        as_aggregator(3)


def test_server_momentum() -> None:
    """γ = 0.5, β = 0.9, Δ = 1, 1: v = 1, 1.9; steps 0.5, 0.95."""
    optimizer, one = SGD(0.5, 0.9), torch.ones(1, dtype=torch.float64)
    first, state = optimizer.step(one, {})
    second, _ = optimizer.step(one, state)
    assert [float(first), float(second)] == pytest.approx([0.5, 0.95])
    for bad in ({"learning_rate": 0.0}, {"momentum": 1.0}, {"learning_rate": float("nan")}):
        with pytest.raises(UsageError):
            SGD(**bad)


def test_sampling_is_seeded_uniform_and_without_replacement() -> None:
    """2,000 rounds of 3 out of 10: each is drawn 600 times, sd sqrt(2000*.3*.7) = 20.5; bound 5 sd."""
    schedule, nodes = Synchronous(3, seed=1), range(2, 12)
    draws = [schedule.sample(nodes, r) for r in range(2000)]
    assert draws[:5] == [Synchronous(3, seed=1).sample(list(nodes), r) for r in range(5)]
    assert all(len(set(d)) == 3 and d == sorted(d) for d in draws)
    counts = np.bincount(np.concatenate(draws), minlength=12)[2:]
    assert np.abs(counts - 600).max() < 103
    with pytest.raises(UsageError, match="cohort of 11 cannot be drawn from 10"):
        Synchronous(11, seed=1).sample(nodes, 1)
