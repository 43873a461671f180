"""What a message holds, and which arrays of an answer are those that were sent.

Flower asks little of an answer: all clients must name their arrays alike, and nobody compares the names with
those that went out. Here an update is the change of an array, so each answered array is put beside the sent
one of its name, or, where no name is known, of its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedlab.apps.contract import Arrays, Sight


def sight_of(number: int, client: int, sent: RecordDict, answered: RecordDict) -> Sight:
    """One answer of training beside its message; `number` is the round."""
    first = next((name for name, one in sent.items() if isinstance(one, ArrayRecord)), "")
    before = _arrays(sent, first)
    names = [name for name, one in answered.items() if isinstance(one, ArrayRecord)]
    after = _arrays(answered, first if first in names else next(iter(names), ""))
    return Sight(number, client, before, after, told=_scalars(sent), metrics=_scalars(answered))


def paired(sight: Sight) -> Sight:
    """Only the arrays that were sent and came back, by the names and in the order of those that were sent.

    What is left by names is paired by place, if it has the same shapes in the same order. May have none.
    """
    before, after = sight.before, sight.after
    names = {key: key for key, value in before.items() if key in after and after[key].shape == value.shape}
    sent, came = ([key for key in one if key not in names] for one in (before, after))
    if [before[key].shape for key in sent] == [after[key].shape for key in came]:
        names |= dict(zip(sent, came, strict=True))
    kept = [key for key in before if key in names]
    return replace(
        sight, before={key: before[key] for key in kept}, after={key: after[names[key]] for key in kept}
    )


def whole(sight: Sight) -> bool:
    """Whether what came back are the arrays that were sent, all of them."""
    shapes = ({key: value.shape for key, value in one.items()} for one in (sight.before, sight.after))
    first, second = shapes
    return first == second


def told(arrays: Arrays, most: int = 6) -> str:
    """Names and shapes, the first few."""
    listed = [f"{key} {tuple(value.shape)}" for key, value in arrays.items()]
    return (
        ", ".join(listed[:most]) + (f", ... ({len(listed)} in all)" if len(listed) > most else "") or "none"
    )


def numbers(array: Array) -> NDArray[np.generic] | None:
    """Its values; None if its bytes are neither numpy's nor bare numbers of the shape that it declares."""
    try:
        return array.numpy()
    except Exception:  # bytes of an app's own; numpy's parser says so in many ways
        pass
    try:
        return np.frombuffer(array.data, dtype=np.dtype(array.dtype)).reshape(array.shape)
    except (TypeError, ValueError):
        return None


def _arrays(content: RecordDict, first: str) -> Arrays:
    """Arrays by name; those of other records than the first as "record/name"."""
    found = {}
    for record_name, record in content.items():
        if isinstance(record, ArrayRecord):
            for name, array in record.items():
                values = numbers(array) if array.data else None
                if values is not None:
                    found[name if record_name == first else f"{record_name}/{name}"] = values
    return found


def _scalars(content: RecordDict) -> Mapping[str, Any]:
    return {
        key: value
        for record in content.values()
        if isinstance(record, ConfigRecord | MetricRecord)
        for key, value in record.items()
        if isinstance(value, bool | int | float | str)
    }
