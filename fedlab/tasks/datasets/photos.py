"""Colour crops of nine photographs that come with scikit-image and scikit-learn; class = photograph.

A stand-in for natural colour images where no download is wanted: an astronaut's portrait, a cat, a
cup of coffee, a rocket, a retina, stained tissue, a field of galaxies, a Chinese temple, a flower.
Crops do not overlap, and every photograph gives the same number, so that the largest (the retina has
1936 crops, the cat 126) does not make up the whole. The photograph is also the natural owner of a
record (`groups`): partition "feature" gives each client its own photographs.
"""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fedlab.errors import UsageError
from fedlab.seeds import numpy_generator
from fedlab.tasks import store
from fedlab.tasks.datasets.sources import source_of
from fedlab.tasks.datasets.split import split
from fedlab.tasks.task import Dataset

SIDE = 32
SMALLEST = 126
"""Crops in the smallest photograph, the cat's."""


def photos(
    *, per_photo: int = 64, test_fraction: float = 0.2, split_seed: int = 0
) -> tuple[Dataset, Dataset]:
    """(train, test) of the crops: x (N, 3, 32, 32) uint8, y = groups = number of the photograph.

    Args:
        per_photo: crops of each photograph, 1 to 126.
        test_fraction: share of the crops that is held out.
        split_seed: decides which crops are taken and which are held out.

    Raises:
        UsageError: a parameter out of range.
        DataError: a photograph is missing or altered.
    """
    if not 1 <= per_photo <= SMALLEST:
        raise UsageError(
            f"per_photo = {per_photo}; expected 1 to {SMALLEST}, the crops of the smallest photo"
        )
    source = source_of("photos")
    x = []
    for file in source.files:
        cut = crops(store.read("photos", file))
        draw = numpy_generator(split_seed, "photos", PurePosixPath(file).stem)
        x.append(cut[np.sort(draw.choice(len(cut), per_photo, replace=False))])
    y = np.repeat(np.arange(len(x), dtype=np.int64), per_photo)
    data = Dataset("photos", np.concatenate(x), y, len(x), source.origin, source.licence, groups=y)
    return split(data, test_fraction, split_seed)


def crops(file: bytes) -> NDArray[np.uint8]:
    """All (N, 3, 32, 32) crops of a PNG or JPEG from the upper left corner on, row by row."""
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        pixels = np.asarray(image.convert("RGB"))
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    grid = pixels[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3)
    return np.ascontiguousarray(grid.transpose(0, 2, 4, 1, 3).reshape(rows * columns, 3, SIDE, SIDE))
