"""Held-out records for data that has no test part of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedlab.errors import DataError, UsageError
from fedlab.seeds import numpy_generator
from fedlab.tasks.task import Dataset


def split(data: Dataset, test_fraction: float, split_seed: int) -> tuple[Dataset, Dataset]:
    """(train, test): a drawn division, at least one record in each; both keep the order of `data`.

    Args:
        test_fraction: share of the records that is held out, above 0 and below 1.
        split_seed: decides the draw, and nothing else does.

    Raises:
        UsageError: the fraction is out of range.
        DataError: a single record cannot be divided.
    """
    if not 0.0 < test_fraction < 1.0:
        raise UsageError(f"test_fraction = {test_fraction!r}; expected a number above 0 and below 1")
    if len(data) < 2:
        raise DataError(f"data set {data.name}: {len(data)} record; expected two at least, to hold one out")
    held_out = min(max(round(len(data) * test_fraction), 1), len(data) - 1)
    order = numpy_generator(split_seed, "test split").permutation(len(data))
    return take(data, np.sort(order[held_out:])), take(data, np.sort(order[:held_out]))


def take(data: Dataset, ids: NDArray[np.int64]) -> Dataset:
    """The records `ids` of `data`, in that order."""
    groups = None if data.groups is None else data.groups[ids]
    return replace(data, x=data.x[ids], y=data.y[ids], groups=groups)
