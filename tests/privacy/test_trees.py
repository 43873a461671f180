"""DP-FTRL's tree against trees that are written out, node by node."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import UsageError
from fedlab.privacy import rdp_epsilon
from fedlab.privacy.trees import nodes, place, squared_sensitivity, width, worst_squared_sensitivity

Node = tuple[int, int]


def decomposed(end: int, size: int, start: int = 0) -> list[Node]:
    """The nodes (start, end] of a complete binary tree over (start, start + size] that make up (start, end]:
    the whole one if it ends there, else those of its left half and of what is left of its right one."""
    if end == start:
        return []
    if end == start + size:
        return [(start, end)]
    half = size // 2
    if end <= start + half:
        return decomposed(end, half, start)
    return [(start, start + half), *decomposed(end, half, start + half)]


def released(last: int, restart: int | None) -> set[tuple[int, Node]]:
    """Every node that some release up to `last` is made of, from the complete trees; (tree, node)."""
    found: set[tuple[int, Node]] = set()
    for step in range(1, last + 1):
        tree, position = place(step, restart)
        if position == restart:
            found.add((tree, (0, position)))  # the tree filled up: its root covers these steps
        else:
            found |= {(tree, node) for node in decomposed(position, 16)}
    return found


def moved(steps: tuple[int, ...], last: int, restart: int | None) -> int:
    """By how much the released nodes' sums move, squared, when the user's vectors are all the same unit
    vector or not there: the swap, carried out."""
    total = 0
    for tree, (start, end) in released(last, restart):
        sums = []
        for present in (True, False):
            stream = [1.0 if step in steps and present else 0.0 for step in range(1, last + 1)]
            inside = [
                value
                for step, value in enumerate(stream, 1)
                if place(step, restart)[0] == tree and start < place(step, restart)[1] <= end
            ]
            sums.append(sum(inside))
        total += round((sums[0] - sums[1]) ** 2)
    return total


def test_the_sum_up_to_a_step_takes_as_many_nodes_as_its_number_has_ones() -> None:
    for position in range(1, 200):
        ends = nodes(position)
        assert len(ends) == bin(position).count("1")
        covered = [step for end in ends for step in range(end - width(end) + 1, end + 1)]
        assert sorted(covered) == list(range(1, position + 1))


@pytest.mark.parametrize("restart", [None, 3, 4, 5, 8])
def test_swapping_a_user_in_a_small_tree_moves_the_nodes_by_what_is_claimed(restart: int | None) -> None:
    """All sets of steps of all trees of up to 8 steps."""
    for last in range(1, 9):
        for size in range(last + 1):
            for steps in itertools.combinations(range(1, last + 1), size):
                assert squared_sensitivity(steps, last, restart) == moved(steps, last, restart)


@pytest.mark.parametrize("restart", [None, 1, 3, 4, 6])
def test_the_worst_case_is_the_worst_of_all_cases(restart: int | None) -> None:
    for last in range(1, 10):
        for most in range(last + 2):
            every = [
                squared_sensitivity(steps, last, restart)
                for size in range(min(most, last) + 1)
                for steps in itertools.combinations(range(1, last + 1), size)
            ]
            assert worst_squared_sensitivity(most, last, restart) == max(every)


@given(last=st.integers(1, 3000), step=st.data())
def test_one_participation_costs_at_most_the_papers_bound(last: int, step: st.DataObject) -> None:
    """⌊log2 T⌋ + 1 nodes, which the first step needs."""
    one = step.draw(st.integers(1, last))
    assert squared_sensitivity([one], last) <= last.bit_length() == squared_sensitivity([1], last)
    assert worst_squared_sensitivity(1, last) == last.bit_length()


def test_restarts_bound_what_one_participation_costs_and_never_let_trees_meet() -> None:
    """16 steps in trees of 4: a step costs 3 nodes at most instead of 5, one in each tree 4 times that."""
    assert worst_squared_sensitivity(1, 16, 4) == 3 and worst_squared_sensitivity(1, 16) == 5
    assert squared_sensitivity([1, 5, 9, 13], 16, 4) == 4 * 3


def test_every_step_is_in_the_end_as_good_as_the_closed_form() -> None:
    """Of 2^m steps, each attended: Σ width² = 2^(2m) + Σ_{j<m} 2^(m−1−j) 4^j."""
    m = 7
    closed = 4**m + sum(2 ** (m - 1 - j) * 4**j for j in range(m))
    assert squared_sensitivity(range(1, 2**m + 1), 2**m) == closed == worst_squared_sensitivity(999, 2**m)


def test_a_tree_that_is_filled_up_ends_with_one_node() -> None:
    assert nodes(7, 7) == [7] and nodes(6, 7) == [6, 4] and width(7, 7) == 7
    assert [place(step, 7) for step in (1, 7, 8, 15)] == [(0, 1), (0, 7), (1, 1), (2, 1)]


def test_a_step_that_never_was_is_refused() -> None:
    for step in (0, 5):
        with pytest.raises(UsageError, match="expected one of 1 to 4"):
            squared_sensitivity([step], 4)
    assert squared_sensitivity([], 0) == 0 and np.isscalar(worst_squared_sensitivity(3, 0))


@pytest.mark.parametrize(("steps", "known"), [(4, 1.445622), (5, 1.445622), (8, 1.693718), (16, 1.914250)])
def test_one_participation_costs_what_another_library_says(steps: int, known: float) -> None:
    """dp-accounting 0.5.1: `SingleEpochTreeAggregationDpEvent(5.0, steps)`, by its RDP accountant at δ = 1e-5
    (under zero-out adjacency, the only one that it allows there)."""
    sigma = 5.0 / worst_squared_sensitivity(1, steps) ** 0.5
    assert rdp_epsilon({(sigma, 1.0): 1}, 1e-5) == pytest.approx(known, abs=1e-5)
