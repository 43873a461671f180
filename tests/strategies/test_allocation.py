"""Requests that are shared out among tasks: none is lost, nobody starves, and the numbers are the paper's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlab.strategies.asynchronous import allocation
from fedlab.strategies.asynchronous.allocation import (
    buffer_of,
    difficulty,
    even,
    handed_over,
    proportional,
    shared_out,
    spread,
)

labels = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=6, unique=True)


@pytest.mark.parametrize(
    ("requests", "quantum", "buffer"),
    [(96, 32, 3), (97, 32, 4), (1, 32, 1), (0, 32, 0), (7, 1, 7), (8, 3, 3)],
)
def test_a_buffer_holds_one_update_for_each_quantum_that_has_begun(
    requests: int, quantum: int, buffer: int
) -> None:
    assert buffer_of(requests, quantum) == buffer == math.ceil(requests / quantum)


def test_requests_are_even_at_first_and_the_first_ones_get_what_is_left() -> None:
    assert even(11, ["a", "b", "c"]) == {"a": 4, "b": 4, "c": 3}


def test_a_share_goes_by_the_largest_remainder() -> None:
    """10 by 3 : 2 : 2 is 4.29, 2.86, 2.86: 4 + 2 + 2, and the two that are left go to the larger .86."""
    assert proportional(10, {"a": 3, "b": 2, "c": 2}) == {"a": 4, "b": 3, "c": 3}


def test_a_finished_task_leaves_its_requests_in_proportion() -> None:
    """32 by 64 : 32 is 21.33 and 10.67: 21 + 10, and the one that is left goes to the larger remainder."""
    assert handed_over({"a": 32, "b": 64, "c": 32}, "a") == {"a": 0, "b": 85, "c": 43}
    assert handed_over({"a": 0, "b": 85, "c": 43}, "c") == {"a": 0, "b": 128, "c": 0}
    assert handed_over({"a": 0, "b": 128, "c": 0}, "b") == {"a": 0, "b": 128, "c": 0}


def test_quanta_follow_the_weights_above_a_floor() -> None:
    """288 in quanta of 32 by 7 : 1 : 1 are due 224, 32 and 32; by 8 : 1 : 0 they are due 256, 32 and 0, and
    the last one keeps its floor at the first one's cost."""
    assert shared_out(288, {"a": 7.0, "b": 1.0, "c": 1.0}, 32) == {"a": 224, "b": 32, "c": 32}
    assert shared_out(288, {"a": 8.0, "b": 1.0, "c": 0.0}, 32) == {"a": 224, "b": 32, "c": 32}


def test_too_few_quanta_for_the_floors_are_shared_evenly() -> None:
    assert shared_out(60, {"a": 9.0, "b": 1.0}, 32) == {"a": 30, "b": 30}


@given(labels, st.integers(1, 500), st.integers(1, 40), st.integers(1, 3), st.data())
def test_no_request_is_lost_or_made(
    names: list[str], total: int, quantum: int, floor: int, data: st.DataObject
) -> None:
    one = st.floats(0.0, 1e6, allow_subnormal=False)
    weights = {name: data.draw(one) for name in names} | {names[0]: 1.0}
    requests = shared_out(total, weights, quantum, floor)
    assert sum(requests.values()) == total
    if total >= len(names) * floor * quantum:
        assert min(requests.values()) >= floor * quantum
    for finished in names:  # one after the other
        requests = handed_over(requests, finished)
        assert sum(requests.values()) == total
        assert min(requests.values()) >= 0


@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 2**31))
def test_the_spread_is_that_of_its_definition(count: int, size: int, seed: int) -> None:
    updates = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean = [sum(float(one[k]) for one in updates) / count for k in range(size)]
    around = sum(sum((float(one[k]) - mean[k]) ** 2 for k in range(size)) for one in updates) / count
    assert spread(list(updates)) == pytest.approx(around / sum(value**2 for value in mean), rel=1e-9)


def test_difficulty_is_the_papers_expression_over_the_last_eight() -> None:
    """D = (1, 3): mean 2, variance 1, spread 1/4. η_l = 0.1, η_g = 0.5, τ = 5: 0.05 · 0.25 / 0.25 = 0.05."""
    ancient = [torch.tensor([100.0])] * 3
    recent = [torch.tensor([1.0]), torch.tensor([3.0])] * (allocation.WINDOW // 2)
    assert difficulty(ancient + recent, 0.1, 0.5, 5) == pytest.approx(0.05)


def test_updates_that_cancel_out_are_infinitely_difficult_and_none_at_all_is_not() -> None:
    assert spread([torch.tensor([1.0]), torch.tensor([-1.0])]) == math.inf
    assert spread([torch.zeros(2), torch.zeros(2)]) == 0.0
