"""Flower arrays that are views into tensors: bytes are made only when somebody asks for them.

Flower's `Array` holds the bytes of an npy file, written when it is made and parsed at each
`numpy()`. A cohort of many small clients spends most of its time there. `TensorArray` is an `Array`
to everybody else: `data` is serialised at the first look, `numpy()` gives a copy that the caller may
change, and what is assigned to `data` replaces the tensor for this array alone. Who knows it takes
`tensor_of(array)`: a view that must not be written to.

The tensor is one row of a `Stack`, which all clients of a chunk share; pickled together, the rows of
one stack carry it once.

Beware: `ArrayRecord({...})` rebuilds its entries as plain arrays; `record[name] = array` keeps them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedlab.runtime._flower import filled

SERVER, UPLINK = "server", "uplink"
"""Records that travel beside the model: what a rule's server tells clients, and what they tell it."""

FIELDS = ("dtype", "shape", "stype", "data")


class Stack:
    """Tensors of several clients along a leading axis, (clients, ...), on the CPU; never written to."""

    __slots__ = ("_norms", "values")

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self._norms: list[float] | None = None

    @property
    def norms(self) -> list[float]:
        """L2 norm of each client's numbers, NaN or infinite where one of them is; 0 where none is a float."""
        if self._norms is None:
            rows = self.values.reshape(len(self.values), math.prod(self.values.shape[1:]))
            floating = rows.is_floating_point() or rows.is_complex()
            self._norms = torch.linalg.vector_norm(rows, dim=1).tolist() if floating else [0.0] * len(rows)
        return self._norms

    def __reduce__(self) -> tuple[Any, ...]:
        return _stack, (self.values.contiguous().numpy(),)


def _stack(values: NDArray[Any]) -> Stack:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Ray's shared memory is read-only, as a stack is
        return Stack(torch.from_numpy(values))


class TensorArray(Array):
    """Row `row` of a stack, as a Flower `Array`."""

    def __init__(self, stack: Stack, row: int) -> None:
        self.__dict__["stack"], self.__dict__["row"] = stack, row

    @property
    def tensor(self) -> Tensor:
        """The row itself; do not write to it."""
        found: Tensor = self.__dict__["stack"].values[self.__dict__["row"]]
        return found

    @property
    def changed(self) -> bool:
        """Whether somebody assigned to a field, so that the tensor no longer counts."""
        return bool(self.__dict__.get("_changed", False))

    def _field(self, name: str) -> Any:
        eager = self.__dict__.get("_eager")
        if eager is None:
            eager = self.__dict__["_eager"] = Array(self.tensor.numpy())
        return getattr(eager, name)

    def numpy(self) -> NDArray[Any]:
        if self.changed:
            return self._plain().numpy()
        return self.tensor.numpy().copy()

    def deflate(self) -> bytes:
        return self._plain().deflate()  # on the wire it is Flower's own kind

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIELDS:
            eager = self._plain()
            setattr(eager, name, value)
            self.__dict__.update(_eager=eager, _changed=True)
        super().__setattr__(name, value)

    def _plain(self) -> Array:
        return Array(**{name: self._field(name) for name in FIELDS})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in FIELDS)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.changed:
            return Array, tuple(self._field(name) for name in FIELDS)
        return TensorArray, (self.__dict__["stack"], self.__dict__["row"])

    def __copy__(self) -> Array:
        return self._plain() if self.changed else TensorArray(self.__dict__["stack"], self.__dict__["row"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Array:
        return self.__copy__()


def _lazy(name: str) -> property:
    """A field that is made at the first look. (`Array.__setattr__` keeps Flower's own books.)"""
    return property(lambda self: self._field(name), lambda self, value: None)


for _name in FIELDS:
    setattr(TensorArray, _name, _lazy(_name))


def tensor_of(array: Array) -> Tensor:
    """The array's tensor; of a `TensorArray` a view, not to be written to."""
    if isinstance(array, TensorArray) and not array.changed:
        return array.tensor
    return torch.from_numpy(array.numpy())


def tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """The record's arrays as tensors, not to be written to."""
    return {name: tensor_of(array) for name, array in record.items()}


ALIGNMENT = 64
"""Bytes: where torch's own allocations begin."""


def aligned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state in memory that begins where torch's own does.

    Matrix kernels round differently for a matrix that does not, as one that came through Ray, out of a
    file or as a slice of a vector may not; whatever computes with a state passes it through here first.
    """
    return {
        name: value
        if value.data_ptr() % ALIGNMENT == 0 and value.is_contiguous()
        else value.clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }


def array_record(state: Mapping[str, Tensor]) -> ArrayRecord:
    """One state as a record of views; the tensors must not be written to any more."""
    stacks = {name: Stack(value.detach().cpu()[None]) for name, value in state.items()}
    return array_records(stacks, 1)[0]


def array_records(stacks: Mapping[str, Stack], clients: int) -> list[ArrayRecord]:
    """One record per client, whose arrays are rows of the common stacks."""
    return [
        filled(ArrayRecord(), {name: TensorArray(stack, row) for name, stack in stacks.items()})
        for row in range(clients)
    ]


def reply_content(arrays: ArrayRecord, metrics: Mapping[str, float]) -> RecordDict:
    """What a client answers: its "arrays" and its "metrics"."""
    if all(type(value) in (int, float) for value in metrics.values()):
        record = filled(MetricRecord(), metrics)
    else:
        record = MetricRecord(dict(metrics))  # says what is wrong with it
    return filled(RecordDict(), {"arrays": arrays, "metrics": record})


def runs(arrays: Sequence[Array]) -> Iterator[tuple[int, Tensor]]:
    """(position of the first, values (k, ...)) of stretches that are consecutive rows of one stack.

    Together they cover `arrays` in order, so that (n, ...) is filled by few large copies.
    """
    start = 0
    while start < len(arrays):
        first = arrays[start]
        if not isinstance(first, TensorArray) or first.changed:
            yield start, tensor_of(first)[None]
            start += 1
            continue
        stack, row = first.__dict__["stack"], first.__dict__["row"]
        end = start + 1
        while end < len(arrays) and _is_row(arrays[end], stack, row + end - start):
            end += 1
        yield start, stack.values[row : row + end - start]
        start = end


def _is_row(array: Array, stack: Stack, row: int) -> bool:
    return (
        isinstance(array, TensorArray)
        and not array.changed
        and array.__dict__["stack"] is stack
        and array.__dict__["row"] == row
    )
