"""1797 handwritten digits of 8x8 pixels: small, real, and part of scikit-learn.

Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
1998, https://doi.org/10.24432/C50P49. Read from scikit-learn's file, whose hash is pinned, because
importing scikit-learn takes longer than reading it.
"""

from __future__ import annotations

import io

import numpy as np

from fedlab.tasks import store
from fedlab.tasks.datasets.sources import source_of
from fedlab.tasks.datasets.split import split
from fedlab.tasks.task import Dataset


def digits(*, test_fraction: float = 0.2, split_seed: int = 0) -> tuple[Dataset, Dataset]:
    """(train, test) of the digits: x (N, 1, 8, 8) float32, the 17 grey levels as 0, 1/16, ... 1.

    Args:
        test_fraction: share of the records that is held out.
        split_seed: decides which.

    Raises:
        UsageError: a fraction that is not between 0 and 1.
        DataError: scikit-learn's file is missing or altered.
    """
    source = source_of("digits")
    (file,) = source.files
    rows = np.loadtxt(io.BytesIO(store.read("digits", file)), delimiter=",", dtype=np.float32)
    x = (rows[:, :64] / 16.0).reshape(-1, 1, 8, 8)
    y = rows[:, 64].astype(np.int64)
    data = Dataset("digits", x, y, 10, source.origin, source.licence)
    return split(data, test_fraction, split_seed)
