"""What travels between the driver and its workers, and how often.

* A model goes into Ray's object store once per version: the array records of outgoing messages are
  replaced by a reference, which each worker fetches once and keeps for a while.
* Everything else of a chunk is one pickle, whose large buffers travel beside it.
* Replies come back as they are: the rows of a chunk's stacks are views into shared memory.
* A context comes back only if the client changed it.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message

from fedlab.runtime._flower import filled
from fedlab.runtime.arrays import Stack, TensorArray
from fedlab.runtime.copies import Identity, identity, own_arrays, same_state
from fedlab.runtime.executors import Chunk, Delivery, Reply

INLINE_BYTES = 100_000
"""Smaller records travel with their chunk: Ray itself puts arguments beyond this into its store."""
VERSIONS = 8
"""How many versions of the model the driver and each worker keep at hand, at most."""
VERSION_BYTES = 1 << 30
"""Together they take no more than that, but for the newest: each is pinned in Ray's object store."""


@dataclass(frozen=True)
class Parcel:
    """A chunk on its way: a pickle, its buffers, and references to the models it names."""

    payload: bytes
    buffers: list[pickle.PickleBuffer]
    models: dict[int, Any]


class Sender:
    """Packs chunks in the driver.

    Args:
        put: stores an object where workers can fetch it, and returns the reference.
    """

    def __init__(self, put: Callable[[ArrayRecord], Any]) -> None:
        self._put = put
        self._models: OrderedDict[Identity, tuple[int, Any, ArrayRecord]] = OrderedDict()
        self._count = 0

    def pack(self, chunk: Chunk) -> Parcel:
        """One chunk; records that are too large for it are left in the store."""
        models: dict[int, Any] = {}
        known: dict[int, int | None] = {}  # of this chunk's records, by id: they live as long as the call

        def model_of(record: ArrayRecord) -> int | None:
            if id(record) not in known:
                known[id(record)] = self._store(record, models) if _large(record) else None
            return known[id(record)]

        stream = io.BytesIO()
        buffers: list[pickle.PickleBuffer] = []
        outgoing = {id(r) for d in chunk if d.message.has_content() for r in d.message.content.values()}
        _Pickler(stream, buffers, outgoing, model_of).dump([(d.message, d.context, d.seed) for d in chunk])
        return Parcel(stream.getvalue(), buffers, models)

    def _store(self, record: ArrayRecord, models: dict[int, Any]) -> int:
        key = identity(record)
        if key not in self._models:
            kept = own_arrays(record)  # keeps alive what the identity stands for; the original may change
            self._count += 1
            self._models[key] = (self._count, self._put(kept), kept)
            _forget(self._models, [_bytes(one) for _, _, one in self._models.values()])
        self._models.move_to_end(key)
        number, reference, _ = self._models[key]
        models[number] = reference
        return number


class _Pickler(pickle.Pickler):
    """Leaves models out, and takes of each stack only the row that is sent."""

    def __init__(
        self,
        stream: io.BytesIO,
        buffers: list[pickle.PickleBuffer],
        outgoing: set[int],
        model_of: Callable[[ArrayRecord], int | None],
    ) -> None:
        super().__init__(stream, protocol=5, buffer_callback=buffers.append)
        self._outgoing, self._model_of = outgoing, model_of

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) is ArrayRecord and id(obj) in self._outgoing:
            return self._model_of(obj)
        return None

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is TensorArray and not obj.changed:
            return TensorArray, (Stack(obj.tensor[None]), 0)
        return NotImplemented


def _large(record: ArrayRecord) -> bool:
    return _bytes(record) > INLINE_BYTES


def _bytes(record: ArrayRecord) -> int:
    arrays = record.values()
    return sum(a.tensor.nbytes if isinstance(a, TensorArray) else len(a.data) for a in arrays)


def _forget(models: OrderedDict[Any, Any], sizes: list[int]) -> None:
    """Drop the oldest of models of these sizes, as far as the limits ask."""
    while len(sizes) > VERSIONS or (len(sizes) > 1 and sum(sizes) > VERSION_BYTES):
        models.popitem(last=False)
        sizes.pop(0)


class Receiver:
    """Unpacks chunks in a worker.

    Args:
        fetch: resolves the references that `Sender.put` returned.
    """

    def __init__(self, fetch: Callable[[Any], ArrayRecord]) -> None:
        self._fetch = fetch
        self._models: OrderedDict[int, ArrayRecord] = OrderedDict()

    def unpack(self, parcel: Parcel) -> list[Delivery]:
        """The chunk; messages that shared a record share it again."""
        records = {number: self._model(number, reference) for number, reference in parcel.models.items()}
        unpickler = _Unpickler(io.BytesIO(parcel.payload), parcel.buffers, records)
        return [Delivery(*delivery) for delivery in unpickler.load()]

    def _model(self, number: int, reference: Any) -> ArrayRecord:
        if number not in self._models:
            self._models[number] = self._fetch(reference)
            _forget(self._models, [_bytes(one) for one in self._models.values()])
        self._models.move_to_end(number)
        return self._models[number]


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, stream: io.BytesIO, buffers: Iterable[pickle.PickleBuffer], records: dict[int, ArrayRecord]
    ) -> None:
        super().__init__(stream, buffers=buffers)
        self._records = records

    def persistent_load(self, pid: int) -> ArrayRecord:
        return self._records[pid]


Returned = list[tuple[Message, Context | None]]
"""What a worker sends back: each answer, and the context where it is not what it was."""


def to_return(chunk: Chunk, replies: Sequence[Reply]) -> Returned:
    """In the worker: replies without the contexts that nobody touched."""
    return [
        (reply.message, None if _untouched(delivery.context, reply.context) else reply.context)
        for delivery, reply in zip(chunk, replies, strict=True)
    ]


def _untouched(before: Context, after: Context) -> bool:
    return (
        same_state(before.state, after.state)
        and before.node_config == after.node_config
        and before.run_config == after.run_config
    )


def returned(chunk: Chunk, answers: Returned) -> list[Reply]:
    """In the driver: replies with their contexts again."""
    return [
        Reply(message, delivery.context if context is None else _settled(context))
        for delivery, (message, context) in zip(chunk, answers, strict=True)
    ]


def _settled(context: Context) -> Context:
    """A context outlives its chunk: as a view, each row would keep its whole stack in shared memory."""
    for record in context.state.values():
        if isinstance(record, ArrayRecord):
            filled(record, {name: _alone(array) for name, array in record.items()})
    return context


def _alone(array: Any) -> Any:
    if isinstance(array, TensorArray) and not array.changed:
        return TensorArray(Stack(array.tensor[None].clone(memory_format=torch.contiguous_format)), 0)
    return array
