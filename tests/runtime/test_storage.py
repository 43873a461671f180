"""Messages, records and contexts go through strict JSON and tensors, and come back bit for bit."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedlab.runtime._flower import enter_run, number
from fedlab.runtime.arrays import Stack, TensorArray, array_record, tensor_of
from fedlab.runtime.storage import Reader, Writer, scalar, size, value
from fedlab.snapshot import Snapshot

TEXTS = st.text(st.characters(), max_size=4)  # with lone surrogates
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
CONFIG = st.booleans() | st.integers() | FLOATS | TEXTS | st.binary(max_size=5)
LISTS = (
    st.lists(st.booleans(), max_size=3)
    | st.lists(st.integers(), max_size=3)
    | st.lists(FLOATS, max_size=3)
    | st.lists(TEXTS, max_size=3)
    | st.lists(st.binary(max_size=3), max_size=3)
)


def through(writer: Writer) -> Reader:
    """As a checkpoint: text and tensors."""
    kept = writer.snapshot()
    text = json.dumps(kept.values, allow_nan=False)
    text.encode()
    return Reader(Snapshot({name: tensor.clone() for name, tensor in kept.tensors.items()}, json.loads(text)))


def bits(thing: Any) -> Any:
    """Kind and bits of a value, so that True is not 1, 1 not 1.0, and NaN equals itself."""
    if isinstance(thing, list):
        return [bits(one) for one in thing]
    return type(thing), struct.pack(">d", thing) if isinstance(thing, float) else thing


def parts(content: RecordDict) -> list[Any]:
    """All that is in a content, in order."""
    found: list[Any] = []
    for name, record in content.items():
        entries = [
            (key, (v.dtype, v.shape, v.stype, v.data) if isinstance(v, Array) else bits(v))
            for key, v in record.items()
        ]
        found.append((name, type(record), entries))
    return found


@given(CONFIG | LISTS)
def test_scalars_survive_strict_json(given: Any) -> None:
    assert bits(value(json.loads(json.dumps(scalar(given), allow_nan=False)))) == bits(given)


@pytest.mark.parametrize(
    "given", [2**53 - 1, 2**53, -(2**53), 2**64, 10**4000, -0.0, 5e-324, math.nan, -math.inf]
)
def test_numbers_that_json_would_bend_are_spelled_out(given: Any) -> None:
    stored = scalar(given)
    assert isinstance(stored, dict) == (abs(given) >= 2**53 or not math.isfinite(given))
    assert bits(value(stored)) == bits(given)


def test_the_bits_of_a_nan_survive_and_what_flower_does_not_know_is_refused() -> None:
    odd = struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0]
    assert struct.pack(">d", value(scalar(odd))).hex() == "fff8000000000123"
    with pytest.raises(TypeError, match="cannot store a dict; expected a bool"):
        scalar({})


@given(
    st.dictionaries(TEXTS, CONFIG | LISTS, max_size=4),
    st.dictionaries(TEXTS, st.integers() | FLOATS | st.lists(FLOATS, max_size=3), max_size=4),
    st.lists(TEXTS, min_size=2, max_size=2, unique=True),
)
def test_records_survive(config: dict[str, Any], metrics: dict[str, Any], names: list[str]) -> None:
    content = RecordDict({names[0]: ConfigRecord(config), names[1]: MetricRecord(metrics)})
    writer = Writer()
    stored = writer.context(Context(1, 2, {"x": True}, content, {"y": "z"}, series_id=2**60))
    found = through(writer).context(json.loads(json.dumps(stored)))
    assert parts(found.state) == parts(content)
    assert (found.run_id, found.node_id, found.series_id) == (1, 2, 2**60)
    assert (found.node_config, found.run_config) == ({"x": True}, {"y": "z"})


ARRAYS = [
    Array(np.array(3.5)),
    Array(np.array([True, False])),
    Array(np.zeros((0, 3), np.float32)),
    Array(np.asfortranarray(np.arange(6.0).reshape(2, 3))),
    Array(np.array([1 + 2j])),
    Array(np.array(["a", "bc"])),
    Array("my-type", (2, 7), "my-kind", b"\x00\xffno npy file"),
    Array("float32", (3,), "numpy.ndarray", b"broken"),
]


def test_arrays_of_every_kind_survive_with_their_bytes() -> None:
    content = RecordDict({"arrays": ArrayRecord({str(i): array for i, array in enumerate(ARRAYS)})})
    writer = Writer()
    stored = writer.content(content)
    reader = through(writer)
    assert stored == 0
    assert parts(reader.context(writer.context(Context(1, 2, {}, content, {}))).state) == parts(content)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bool, torch.int64, torch.bfloat16])
def test_views_stay_views_and_keep_their_bits(kind: torch.dtype) -> None:
    enter_run()
    stack = Stack((torch.arange(6).reshape(3, 2) % 2).to(kind))
    record = ArrayRecord()
    record["row"] = TensorArray(stack, 1)
    writer = Writer()
    stored = writer.message(Message(RecordDict({"arrays": record}), 2, "train"))
    found = through(writer).message(stored).content["arrays"]["row"]
    assert isinstance(found, TensorArray) and not found.changed
    assert tensor_of(found).dtype == kind and torch.equal(tensor_of(found), stack.values[1])
    stack.values.zero_()
    assert writer.snapshot().tensors["0"].to(torch.int64).tolist() == [0, 1], "later changes do not reach it"


def test_a_view_that_was_written_to_is_its_bytes() -> None:
    record = array_record({"w": torch.zeros(2)})
    record["w"].data = Array(np.ones(2, np.float32)).data
    writer = Writer()
    context = writer.context(Context(1, 2, {}, RecordDict({"arrays": record}), {}))
    assert through(writer).context(context).state["arrays"]["w"].numpy().tolist() == [1.0, 1.0]


def test_what_messages_share_is_stored_once_and_shared_again() -> None:
    enter_run()
    arrays = array_record({"w": torch.zeros(5)})
    content = RecordDict({"arrays": arrays})
    messages = [Message(content, node, "train") for node in range(2, 102)]
    messages.append(Message(RecordDict({"arrays": arrays, "more": MetricRecord({"x": 1})}), 2, "train"))
    writer = Writer()
    stored = [writer.message(message) for message in messages]
    assert len(writer.snapshot().tensors) == 1
    reader = through(writer)
    found = [reader.message(one) for one in stored]
    assert len({id(one.content) for one in found}) == 2
    assert len({id(one.content["arrays"]) for one in found}) == 1


def test_messages_and_failed_replies_keep_all_that_they_say_about_themselves() -> None:
    enter_run()
    message = Message(RecordDict(), 2, "train.custom", ttl=17.25, group_id="7")
    number(message, "m3")
    failed = Message(Error(2, "caf\udce9 is no UTF-8"), reply_to=message)
    writer = Writer()
    stored = [writer.message(one) for one in (message, failed, Message(Error(2), reply_to=message))]
    reader = through(writer)
    found = [reader.message(one) for one in json.loads(json.dumps(stored))]
    assert [one.metadata for one in found[:2]] == [message.metadata, failed.metadata]
    assert found[0].has_content() and not found[0].content
    assert found[1].error == failed.error and found[2].error == Error(2, None)
    assert Message(RecordDict(), reply_to=found[0]).metadata.reply_to_message_id == "m3"


def test_a_content_weighs_what_its_numbers_weigh_whatever_holds_them() -> None:
    """2 x 3 doubles are 48 bytes, 4 floats 16, a scalar double 8; somebody's own kind counts its bytes."""
    lazy = array_record({"a": torch.zeros(2, 3, dtype=torch.float64), "b": torch.zeros(4)})
    eager = ArrayRecord([np.zeros((2, 3)), np.zeros(4, np.float32)])
    assert size(RecordDict({"arrays": lazy, "m": MetricRecord({"x": 1})})) == 64
    assert size(RecordDict({"arrays": eager})) == 64
    own = ArrayRecord({"own": Array("mine", (9, 9), "mine", b"12345"), "scalar": Array(np.array(1.0))})
    assert size(RecordDict({"arrays": own})) == 13
    assert size(RecordDict()) == 0
