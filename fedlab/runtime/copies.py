"""Copy on write at delivery: what a client may edit is its own, what it only reads is shared.

Flower's strategies put one `RecordDict` into every message of a round. A client that edits its
message must change nobody else's, nor the server's; copying the model for each client would cost
more than training it. So a delivered message has containers of its own (records, lists, `Array`
objects) around values that cannot change: bytes, numbers, rows of a stack.
"""

from __future__ import annotations

import copy

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedlab.runtime._flower import filled, message_of
from fedlab.runtime.arrays import TensorArray

Record = ArrayRecord | MetricRecord | ConfigRecord


def own_message(message: Message) -> Message:
    """A message for one client to edit; its arrays share their bytes or tensors with the original."""
    metadata = copy.copy(message.metadata)
    if message.has_error():
        return message_of(metadata, error=message.error)
    return message_of(metadata, own_records(message.content))


def own_context(context: Context) -> Context:
    """A context to edit, so that a client that fails half-way leaves the original as it was."""
    return Context(
        context.run_id,
        context.node_id,
        dict(context.node_config),
        own_records(context.state),
        dict(context.run_config),
        context.series_id,
    )


def own_records(records: RecordDict) -> RecordDict:
    """New containers around the same immutable values."""
    return filled(RecordDict(), {name: own_record(record) for name, record in records.items()})


def own_record(record: Record) -> Record:
    """One record in a container of its own."""
    if isinstance(record, ArrayRecord):
        return own_arrays(record)
    values = {key: list(value) if isinstance(value, list) else value for key, value in record.items()}
    if isinstance(record, MetricRecord):
        return filled(MetricRecord(), values)
    return filled(ConfigRecord(), values)


def own_arrays(record: ArrayRecord) -> ArrayRecord:
    """The same arrays, each as an object of its own."""
    return filled(ArrayRecord(), {name: copy.copy(array) for name, array in record.items()})


Identity = tuple[object, ...]


def identity(record: ArrayRecord) -> Identity:
    """What tells one version of a record's values from another, without looking at the values.

    Two records alive at the same time have the same identity only if they hold the same immutable
    bytes and stack rows under the same names. Whoever keeps an identity keeps `own_arrays(record)`.
    """
    return tuple((name, *_of(array)) for name, array in record.items())


def _of(array: Array) -> Identity:
    if isinstance(array, TensorArray) and not array.changed:
        return id(array.__dict__["stack"]), array.__dict__["row"]
    return id(array.data), array.dtype, array.shape, array.stype


def same_state(before: RecordDict, after: RecordDict) -> bool:
    """Whether a client left its state as it was; both must be alive."""
    if before.keys() != after.keys():
        return False
    return all(_same(before[name], after[name]) for name in before)


def _same(before: Record, after: Record) -> bool:
    if isinstance(before, ArrayRecord) and isinstance(after, ArrayRecord):
        return identity(before) == identity(after)
    return type(before) is type(after) and dict(before) == dict(after)
