"""Flower's messages, records and contexts as tensors and JSON, and back, bit for bit.

What a message holds is a stranger's: texts that are no UTF-8, NaN, integers of any size and bytes
must survive a JSON that knows none of them. A scalar that JSON cannot hold exactly is a table with one
key that says what it is. An array is its bytes (whatever they mean), or the tensor that it views. A
record that many messages share is stored once, and shared again when it is read.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from torch import Tensor

from fedlab.runtime._flower import message_of
from fedlab.runtime.arrays import Stack, TensorArray
from fedlab.snapshot import Snapshot

Record = ArrayRecord | ConfigRecord | MetricRecord

_EXACT = 2**53
"""From here on not every JSON reader keeps an integer."""

_KINDS: dict[str, type[ConfigRecord] | type[MetricRecord]] = {"config": ConfigRecord, "metric": MetricRecord}

_METADATA = (
    "run_id",
    "message_id",
    "src_node_id",
    "dst_node_id",
    "reply_to_message_id",
    "group_id",
    "created_at",
    "ttl",
    "message_type",
    "src_task_id",
    "dst_task_id",
)


class Writer:
    """Collects contents and their records, each once."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._kept: list[object] = []  # so that no id is given to another object meanwhile
        self._contents: list[Any] = []
        self._records: list[Any] = []
        self._tensors: dict[str, Tensor] = {}

    def message(self, message: Message) -> dict[str, Any]:
        """The message; its content goes to the records."""
        found: dict[str, Any] = {"metadata": [scalar(getattr(message.metadata, name)) for name in _METADATA]}
        if message.has_error():
            found["error"] = [scalar(message.error.code), scalar(message.error.reason)]
        else:
            found["content"] = self.content(message.content)
        return found

    def context(self, context: Context) -> dict[str, Any]:
        """The context; its state goes to the records."""
        return {
            "ids": [scalar(context.run_id), scalar(context.node_id), scalar(context.series_id)],
            "node_config": _table(context.node_config),
            "run_config": _table(context.run_config),
            "state": self.content(context.state),
        }

    def content(self, content: RecordDict) -> int:
        """The content's number."""
        if id(content) not in self._numbers:
            entries = [[scalar(name), self._record(record)] for name, record in content.items()]
            self._number(content, self._contents, entries)
        return self._numbers[id(content)]

    def snapshot(self) -> Snapshot:
        """All that was collected."""
        return Snapshot(self._tensors, {"contents": self._contents, "records": self._records})

    def _number(self, thing: object, kept: list[Any], entry: Any) -> None:
        self._numbers[id(thing)] = len(kept)
        self._kept.append(thing)
        kept.append(entry)

    def _record(self, record: Record) -> int:
        if id(record) not in self._numbers:
            if isinstance(record, ArrayRecord):
                entry = {"kind": "array", "entries": [[scalar(n), self._array(a)] for n, a in record.items()]}
            else:
                kind = "config" if isinstance(record, ConfigRecord) else "metric"
                entry = {"kind": kind, "entries": _table(record)}
            self._number(record, self._records, entry)
        return self._numbers[id(record)]

    def _array(self, array: Array) -> dict[str, Any]:
        name = str(len(self._tensors))
        if isinstance(array, TensorArray) and not array.changed:
            self._tensors[name] = array.tensor.clone(memory_format=torch.contiguous_format)
            return {"tensor": name}
        data = np.frombuffer(array.data, dtype=np.uint8).copy()
        self._tensors[name] = torch.from_numpy(data)
        about = {"dtype": scalar(array.dtype), "shape": list(array.shape), "stype": scalar(array.stype)}
        return {"bytes": name, **about}


class Reader:
    """Gives back what a `Writer` collected."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._tensors = snapshot.tensors
        self._records = [self._record(entry) for entry in snapshot.values["records"]]
        self._contents = [
            RecordDict({value(name): self._records[number] for name, number in entries})
            for entries in snapshot.values["contents"]
        ]

    def message(self, stored: Mapping[str, Any]) -> Message:
        """The message."""
        metadata = Metadata(*[value(one) for one in stored["metadata"]])
        if "error" in stored:
            code, reason = map(value, stored["error"])
            return message_of(metadata, error=Error(code, reason))
        return message_of(metadata, content=self._contents[stored["content"]])

    def context(self, stored: Mapping[str, Any]) -> Context:
        """The context."""
        run, node, series = map(value, stored["ids"])
        state = self._contents[stored["state"]]
        return Context(
            run, node, _untable(stored["node_config"]), state, _untable(stored["run_config"]), series
        )

    def _record(self, stored: Mapping[str, Any]) -> Record:
        if stored["kind"] != "array":
            return _KINDS[stored["kind"]](_untable(stored["entries"]))
        record = ArrayRecord()
        for name, array in stored["entries"]:
            record[value(name)] = self._array(array)
        return record

    def _array(self, stored: Mapping[str, Any]) -> Array:
        if "tensor" in stored:
            return TensorArray(Stack(self._tensors[stored["tensor"]].clone()[None]), 0)
        data = self._tensors[stored["bytes"]].numpy().tobytes()
        return Array(value(stored["dtype"]), tuple(stored["shape"]), value(stored["stype"]), data)


def scalar(given: object) -> Any:
    """A scalar, or a list of them, as strict JSON can hold it.

    Raises:
        TypeError: Flower's records do not hold such a thing.
    """
    if isinstance(given, list | tuple):
        return [scalar(one) for one in given]
    if given is None or isinstance(given, bool):
        return given
    if isinstance(given, int):
        return int(given) if abs(given) < _EXACT else {"int": hex(given)}
    if isinstance(given, float):
        return float(given) if math.isfinite(given) else {"float": struct.pack(">d", given).hex()}
    if isinstance(given, bytes):
        return {"bytes": base64.b64encode(given).decode()}
    if isinstance(given, str):
        try:
            given.encode()
            return given
        except UnicodeEncodeError:
            return {"text": base64.b64encode(given.encode(errors="surrogatepass")).decode()}
    raise TypeError(f"cannot store a {type(given).__name__}; expected a bool, int, float, str or bytes")


def value(stored: Any) -> Any:
    """What `scalar` was given."""
    if isinstance(stored, list):
        return [value(one) for one in stored]
    if not isinstance(stored, dict):
        return stored
    ((kind, text),) = stored.items()
    match kind:
        case "int":
            return int(text, 16)
        case "float":
            return struct.unpack(">d", bytes.fromhex(text))[0]
        case "bytes":
            return base64.b64decode(text)
        case _:
            return base64.b64decode(text).decode(errors="surrogatepass")


def size(content: RecordDict) -> int:
    """Bytes of the numbers in a content's arrays; nothing is serialised to find out."""
    records = [record for record in content.values() if isinstance(record, ArrayRecord)]
    return sum(_bytes(array) for record in records for array in record.values())


def _bytes(array: Array) -> int:
    if isinstance(array, TensorArray) and not array.changed:
        return array.tensor.nbytes
    try:
        return math.prod(array.shape) * np.dtype(array.dtype).itemsize
    except TypeError:  # an array of somebody's own kind
        return len(array.data)


def _table(entries: Mapping[str, Any]) -> list[list[Any]]:
    return [[scalar(name), scalar(one)] for name, one in entries.items()]


def _untable(stored: list[list[Any]]) -> dict[str, Any]:
    return {value(name): value(one) for name, one in stored}
