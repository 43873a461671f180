"""MNIST and Fashion-MNIST, from the IDX files in which both are handed out.

LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 1998, and Xiao et
al., "Fashion-MNIST", 2017, https://arxiv.org/abs/1708.07747. An IDX file is a big-endian header (two
zero bytes, a type, the number of axes, each axis' length as uint32) and then the values.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlab.errors import DataError, UsageError
from fedlab.tasks import store
from fedlab.tasks.datasets.sources import source_of
from fedlab.tasks.task import Dataset

UINT8 = 0x08


def fashion_mnist(*, path: Path | None = None, limit: int | None = None) -> tuple[Dataset, Dataset]:
    """(train, test) of Fashion-MNIST: 60000 and 10000 images, x (N, 1, 28, 28) uint8, 10 classes.

    Args:
        path: folder of the IDX files, plain or .gz; by default wherever `fedlab data list` says.
        limit: take the first so many records of each part; by default all.

    Raises:
        DataError: a file is missing, truncated or altered.
        UsageError: a limit below one.
    """
    return _load("fashion-mnist", path, limit)


def mnist(*, path: Path | None = None, limit: int | None = None) -> tuple[Dataset, Dataset]:
    """(train, test) of MNIST: 60000 and 10000 images, x (N, 1, 28, 28) uint8, 10 classes.

    Args:
        path: folder of the IDX files, plain or .gz; by default wherever `fedlab data list` says.
        limit: take the first so many records of each part; by default all.

    Raises:
        DataError: a file is missing, truncated or altered.
        UsageError: a limit below one.
    """
    return _load("mnist", path, limit)


def parse_idx(content: bytes, axes: int, what: str) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes with `axes` axes; `what` names it in messages.

    Raises:
        DataError: the header is not one, or promises other than what follows.
    """
    start = 4 + 4 * axes
    magic = bytes((0, 0, UINT8, axes))
    if content[:4] != magic or len(content) < start:
        raise DataError(
            f"{what} is no IDX file of bytes with {axes} axes: starts with {content[:4].hex(' ')},"
            f" expected {magic.hex(' ')}; it is another file or altered"
        )
    shape = struct.unpack(f">{axes}I", content[4:start])
    if math.prod(shape) != len(content) - start:
        raise DataError(
            f"{what} promises {' x '.join(map(str, shape))} = {math.prod(shape)} bytes of data but holds"
            f" {len(content) - start}; it is truncated or altered"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _load(name: str, path: Path | None, limit: int | None) -> tuple[Dataset, Dataset]:
    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit}; expected at least 1, or none for all records")
    return _part(name, "train", path, limit), _part(name, "t10k", path, limit)


def _part(name: str, part: str, path: Path | None, limit: int | None) -> Dataset:
    source = source_of(name)
    images, labels = (
        parse_idx(store.read(name, file, path), axes, f"data set {name}: {file}")[:limit]
        for file, axes in ((f"{part}-images-idx3-ubyte", 3), (f"{part}-labels-idx1-ubyte", 1))
    )
    return Dataset(name, images[:, None], labels.astype(np.int64), 10, source.origin, source.licence)
