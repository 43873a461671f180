"""What an array says of itself, and whether its bytes are what it says.

Flower's `Array` declares a shape and a type beside the bytes of an npy file, which declares them again.
Whoever allocates first and compares later can be made to allocate a terabyte; whoever unpickles runs
what a client sent. Here a header is read, and nothing else.
"""

from __future__ import annotations

import io
import math
from typing import Literal, NamedTuple

from flwr.app import Array
from numpy.lib import format as npy
from torch import Tensor

from fedlab.runtime.arrays import TensorArray

Kind = Literal[
    "records",
    "keys",
    "shape",
    "dtype",
    "not-finite",
    "norm",
    "num-examples",
    "steps",
    "quorum",
    "surplus",
    "duplicate",
    "late",
    "foreign",
]
"""Why a reply was turned away, in one word."""

NUMPY = "numpy.ndarray"
INTEGERS = (f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
NUMBERS = frozenset(("bool", *INTEGERS, "float16", "float32", "float64", "complex64", "complex128"))
"""Types of arrays that numpy and torch both know."""


class Flaw(NamedTuple):
    """What is wrong: a word for programs, a sentence for people."""

    kind: Kind
    reason: str


def declared(array: Array) -> tuple[tuple[int, ...], str]:
    """(shape, type), without making bytes of a view."""
    if not is_view(array):
        return array.shape, array.dtype
    values: Tensor = array.__dict__["stack"].values
    return tuple(values.shape[1:]), str(values.dtype).removeprefix("torch.")


def is_view(array: Array) -> bool:
    """Whether it is a row of a stack that nobody has assigned to."""
    return type(array) is TensorArray and not array.changed


def forged(name: str, key: str, array: Array) -> Flaw | None:
    """Whether a plain array's bytes are what its fields say; reads the header and no more."""
    where = f"{name}[{key!r}]"
    if array.stype != NUMPY or not isinstance(array.data, bytes):
        return Flaw("dtype", f"{where} is serialised as {str(array.stype)[:40]!r}; expected {NUMPY!r}")
    stream = io.BytesIO(array.data)
    try:
        version = npy.read_magic(stream)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, _, dtype = read(stream)
    except Exception as error:  # hostile bytes: whatever numpy's parser makes of them
        return Flaw("dtype", f"{where} holds no array that numpy can read: {str(error)[:80]}")
    if dtype.hasobject or str(dtype) not in NUMBERS or str(dtype) != array.dtype:
        return Flaw(
            "dtype", f"{where} is declared {str(array.dtype)[:40]}, but its bytes are {str(dtype)[:40]}"
        )
    if shape != array.shape or min(shape, default=0) < 0:
        return Flaw(
            "shape", f"{where} is declared {str(array.shape)[:80]}, but its bytes are {str(shape)[:80]}"
        )
    needed, there = math.prod(shape) * dtype.itemsize, len(array.data) - stream.tell()
    if needed != there:
        return Flaw("shape", f"{where} of shape {shape} needs {needed} bytes, but has {there}")
    return None
