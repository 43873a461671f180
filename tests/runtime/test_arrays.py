"""Arrays that are views: Flower's own kind to everybody else, and nobody's edit reaches another."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedlab.runtime.arrays import (
    Stack,
    TensorArray,
    array_record,
    array_records,
    reply_content,
    runs,
    tensor_of,
    tensors,
)

STACK = Stack(torch.arange(12, dtype=torch.float32).reshape(3, 4))
EAGER = Array(np.arange(4, 8, dtype=np.float32))


def test_it_is_flowers_array_in_every_respect() -> None:
    lazy = TensorArray(STACK, 1)
    assert (lazy.dtype, lazy.shape, lazy.stype, lazy.data) == ("float32", (4,), "numpy.ndarray", EAGER.data)
    assert lazy == EAGER and EAGER == lazy and lazy != TensorArray(STACK, 0) and lazy != "array"
    assert lazy.object_id == EAGER.object_id and lazy.deflate() == EAGER.deflate()
    assert lazy.numpy().tolist() == [4.0, 5.0, 6.0, 7.0]
    record = array_record({"w": torch.ones(2, dtype=torch.int64)})
    assert isinstance(record["w"], TensorArray)
    assert record.object_id == ArrayRecord({"w": Array(np.ones(2, dtype=np.int64))}).object_id
    assert record.to_torch_state_dict()["w"].tolist() == [1, 1]


def test_an_edit_of_what_numpy_gave_reaches_nobody() -> None:
    lazy = TensorArray(STACK, 1)
    lazy.numpy()[:] = 0.0
    assert lazy.numpy().tolist() == [4.0, 5.0, 6.0, 7.0]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_an_edited_copy_changes_alone(copied: type) -> None:
    lazy = TensorArray(STACK, 1)
    other = copied(lazy)
    other.data, zeros = Array(np.zeros(4, np.float32)).data, Array(np.zeros(4, np.float32))
    assert other == zeros and other.object_id == zeros.object_id and other.numpy().tolist() == [0.0] * 4
    assert tensor_of(other).tolist() == [0.0] * 4
    assert copied(other) == zeros, "a copy of an edited array keeps the edit"
    assert lazy == EAGER and STACK.values[1].tolist() == [4.0, 5.0, 6.0, 7.0]


def test_rows_of_one_stack_travel_once() -> None:
    big = Stack(torch.zeros(50, 1000))
    records = array_records({"w": big}, 50)
    assert len(pickle.dumps(records)) < 1.1 * len(pickle.dumps(big))
    back = pickle.loads(pickle.dumps(records, protocol=5))
    assert len({id(record["w"].__dict__["stack"]) for record in back}) == 1


def test_a_view_is_read_without_a_copy() -> None:
    assert tensor_of(TensorArray(STACK, 2)).data_ptr() == STACK.values[2].data_ptr()
    assert tensors(ArrayRecord({"w": EAGER}))["w"].tolist() == [4.0, 5.0, 6.0, 7.0]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "eager"]), st.integers(0, 3)), min_size=1, max_size=12))
def test_runs_cover_everything_in_order(picks: list[tuple[str, int]]) -> None:
    stacks = {"a": Stack(torch.arange(4.0)[:, None]), "b": Stack(torch.arange(10.0, 14.0)[:, None])}
    arrays = [
        Array(np.array([float(row)], np.float32)) if kind == "eager" else TensorArray(stacks[kind], row)
        for kind, row in picks
    ]
    found = torch.full((len(arrays), 1), -1.0)
    for start, values in runs(arrays):
        found[start : start + len(values)] = values
    assert found.flatten().tolist() == [float(a.numpy()[0]) for a in arrays]


def test_consecutive_rows_are_one_run() -> None:
    arrays = [TensorArray(STACK, 0), TensorArray(STACK, 1), TensorArray(STACK, 2), TensorArray(STACK, 0)]
    assert [(start, len(values)) for start, values in runs(arrays)] == [(0, 3), (3, 1)]


def test_a_reply_holds_what_flower_checks() -> None:
    content = reply_content(array_record({"w": torch.zeros(1)}), {"num-examples": 3, "loss": 0.5})
    same = RecordDict(
        {
            "arrays": array_record({"w": torch.zeros(1)}),
            "metrics": MetricRecord({"num-examples": 3, "loss": 0.5}),
        }
    )
    assert content == same and content.object_id == same.object_id
    with pytest.raises(TypeError):
        reply_content(array_record({}), {"num-examples": "three"})  # type: ignore[dict-item]
