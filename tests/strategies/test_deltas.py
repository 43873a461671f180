"""Deltas in blocks are the deltas as a whole; a coordinate-wise aggregator does not feel the difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedlab.runtime import SimulationGrid
from fedlab.runtime.arrays import Stack, array_record, array_records, reply_content
from fedlab.strategies import SGD, as_aggregator, fedavg, learner
from fedlab.strategies.aggregators import coordinatewise, mean, median, weighted_mean
from fedlab.strategies.deltas import deltas, flatten, unflatten
from tests.runtime.apps import adding_app

BEFORE = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor(5.0), "c": torch.arange(3)}


@given(st.integers(1, 9), st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_blocks_are_the_columns_of_the_whole(width: int, rows: list[int]) -> None:
    """Clients from one stack, in any order, and one plain array among them."""
    generator = torch.Generator().manual_seed(1)
    stacks = {
        "a": Stack(torch.rand(4, 2, 2, generator=generator)),
        "b": Stack(torch.rand(4, generator=generator)),
        "c": Stack(torch.randint(9, (4, 3), generator=generator)),
    }
    every = array_records(stacks, 4)
    plain = ArrayRecord({n: Array(np.asarray(v.numpy() + 1)) for n, v in BEFORE.items()})
    records = [every[row] for row in rows] + [plain]
    expected = torch.stack(
        [
            torch.cat([(torch.as_tensor(r[n].numpy()).double() - v).reshape(-1) for n, v in BEFORE.items()])
            for r in records
        ]
    )
    blocks = [block.clone() for block in deltas(records, BEFORE, list(BEFORE), width)]
    assert all(block.shape[1] == width for block in blocks[:-1]) and blocks[-1].shape[1] <= width
    assert torch.equal(torch.cat(blocks, 1), expected)
    (whole,) = deltas(records, BEFORE, list(BEFORE))
    assert torch.equal(whole, expected) and expected[-1].tolist() == [1.0] * 8


def test_a_vector_and_its_state() -> None:
    vector = flatten(BEFORE, ["a", "b", "c"])
    assert vector.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 1.0, 2.0]
    back = unflatten(vector, BEFORE, ["a", "b", "c"])
    assert all(torch.equal(back[n], v) and back[n].dtype == v.dtype for n, v in BEFORE.items())


@coordinatewise
def first(deltas: Tensor, weights: Tensor) -> Tensor:
    """A view of its argument, which the next block overwrites."""
    return deltas[0]


def aggregate(function: object) -> list[float]:
    strategy = fedavg(
        aggregator=as_aggregator(function), optimizer=SGD(), cohort=3, seed=0, parameters=["a", "b"]
    )
    grid = SimulationGrid(adding_app(), 3)
    messages = list(strategy.configure_train(1, array_record(BEFORE), ConfigRecord(), grid))
    replies = []
    for number, message in enumerate(messages):
        state = {**BEFORE, "a": BEFORE["a"] * (number + 2), "b": BEFORE["b"] - number}
        replies.append(
            Message(reply_content(array_record(state), {"num-examples": number + 1}), reply_to=message)
        )
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    return [float(x) for name in ("a", "b") for x in np.ravel(arrays[name].numpy())]


@pytest.mark.parametrize("function", [mean, weighted_mean, median, first])
def test_coordinate_by_coordinate_gives_the_same(function: object, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = aggregate(lambda d, w: function(d, w))  # type: ignore[operator]  # not marked
    for width in (1, 2, 3, 8192):
        monkeypatch.setattr(learner, "BLOCK", width)
        assert aggregate(function) == whole
    # The updates are a * (1, 2, 3) and -(0, 1, 2): the first is (1, 2, 3, 4) and 0.
    assert aggregate(first) == [2.0, 4.0, 6.0, 8.0, 5.0]
