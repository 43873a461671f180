"""Gaussian classes: as many records as anybody wants, and for each of 10^9 clients records of its own.

The data of the reduced reproduction of FedBuff and Papaya: the means of the classes are μ_y ~ separation ·
N(0, I), and a record of class y is x ~ N(μ_y, I). How hard it is follows from the separation alone.

Where clients have records of their own, these are never stored. A record's id says whose it is, which of its
records, and of which class; the noise comes in pages, each from a stream of its own, so that looking up one
client's records takes a few draws, and each record is the same whoever asks, in whatever order.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedlab import seeds
from fedlab.errors import UsageError
from fedlab.tasks.task import Dataset, Records

CLIENTS = 10**9
"""How many may have records of their own."""
SLOTS = 1 << 16
"""Records that each of them may have."""
PAGE = 64
"""Records that are drawn together."""
KEPT_BYTES = 16 << 20
"""Of pages that are remembered: a cohort's, from one of its steps to the next."""

SOURCE, LICENCE = "drawn by fedlab", "none needed: random numbers"


def gaussians(
    *,
    records: Annotated[int, Field(ge=1)] | None = None,
    classes: Annotated[int, Field(ge=2)] = 10,
    features: Annotated[int, Field(ge=1)] = 32,
    separation: Annotated[float, Field(ge=0)] = 0.55,
    test_records: Annotated[int, Field(ge=1)] = 4000,
    seed: Annotated[int, Field(ge=0)] = 0,
) -> tuple[Records, Dataset]:
    """(train, test): x (N, 1, 1, features) float32 with x ~ N(μ_y, I), where μ_y ~ separation · N(0, I).

    Args:
        records: how many there are to share out, as many of each class as of any other. Unless given, each
            client has records of its own, made when they are asked for: take the partition `drawn`.
        classes: how many.
        features: of a record.
        separation: standard deviation of each coordinate of the means; 0 leaves nothing to learn.
        test_records: how many are held out, as many of each class as of any other.
        seed: of all draws.

    Raises:
        UsageError: a parameter out of range.
    """
    numbers = {"classes": classes, "features": features, "test_records": test_records}
    for name, value in {**numbers, **({} if records is None else {"records": records})}.items():
        least = 2 if name == "classes" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name} = {value!r}; expected a whole number of at least {least}")
    if not 0.0 <= separation < float("inf"):
        raise UsageError(f"separation = {separation!r}; expected a finite number of at least 0")
    draw = seeds.numpy_generator(seed, "gaussians", "means")
    means = np.float32(separation) * draw.standard_normal((classes, features), dtype=np.float32)
    train = Gaussians(means, seed) if records is None else _listed(means, records, seed, "train")
    return train, _listed(means, test_records, seed, "test")


class Gaussians:
    """Records of which every client has its own.

    Record ((client · SLOTS + slot) · classes + label) is the mean of its label plus the noise of its slot.

    Args:
        means: (classes, features) float32.
    """

    name, source, licence = "gaussians", SOURCE, LICENCE
    synthetic, pixels, slots = True, False, SLOTS

    def __init__(self, means: NDArray[np.float32], seed: int) -> None:
        self.means, self.seed = means, seed
        self.classes, self.features = len(means), int(means.shape[1])

    def __len__(self) -> int:
        return CLIENTS * SLOTS * self.classes

    @property
    def shape(self) -> tuple[int, ...]:
        """(1, 1, features)."""
        return (1, 1, self.features)

    def own(self, client: int, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) ids of the first n records of `client`, with these labels (n,).

        Raises:
            UsageError: there is no such client, or it cannot have as many.
        """
        if not 0 <= client < CLIENTS or len(labels) > SLOTS:
            raise UsageError(
                f"{len(labels)} records of client {client}; expected at most {SLOTS}, clients below {CLIENTS}"
            )
        slots: NDArray[np.int64] = client * SLOTS + np.arange(len(labels))
        return slots * self.classes + labels

    def images(self, ids: NDArray[np.int64] | Sequence[int]) -> Tensor:
        """(len(ids), 1, 1, features) float32."""
        rows, labels = self._parts(ids)
        pages, place = np.unique(rows // PAGE, return_inverse=True)
        if len(pages) == 0:
            return torch.empty(0, *self.shape)
        noise = np.concatenate([self._page(page) for page in pages.tolist()])
        x = noise[place * PAGE + rows % PAGE]
        x += self.means[labels]
        return torch.from_numpy(x.reshape(-1, *self.shape))

    def labels(self, ids: NDArray[np.int64] | Sequence[int]) -> Tensor:
        """(len(ids),) int64."""
        return torch.from_numpy(self._parts(ids)[1])

    def sha256(self) -> str:
        """Hash of what all records follow from, and of a few of them."""
        digest = hashlib.sha256(repr((self.name, self.seed, SLOTS, PAGE, self.means.shape)).encode())
        digest.update(self.means.tobytes())
        digest.update(self._page(0).tobytes())
        return digest.hexdigest()

    def _parts(self, ids: NDArray[np.int64] | Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slots, counted through all clients, and labels."""
        which = np.asarray(ids, dtype=np.int64)
        if len(which) and not (which.min() >= 0 and which.max() < len(self)):
            raise IndexError(
                f"records {which.min()} to {which.max()}; expected ids from 0 to {len(self) - 1}"
            )
        rows, labels = np.divmod(which, self.classes)
        return rows, labels

    @functools.cached_property
    def _page(self) -> Callable[[int], NDArray[np.float32]]:
        """(PAGE, features): the noise of one page."""

        def draw(page: int) -> NDArray[np.float32]:
            generator = seeds.numpy_generator(self.seed, "gaussians", page)
            return generator.standard_normal((PAGE, self.features), dtype=np.float32)

        return functools.lru_cache(max(1, KEPT_BYTES // (4 * PAGE * self.features)))(draw)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_page"}


def _listed(means: NDArray[np.float32], records: int, seed: int, part: str) -> Dataset:
    classes, features = means.shape
    y = np.arange(records) % classes
    x = seeds.numpy_generator(seed, "gaussians", part).standard_normal((records, features), dtype=np.float32)
    x += means[y]
    return Dataset(
        "gaussians",
        x.reshape(-1, 1, 1, features),
        y,
        classes,
        SOURCE,
        LICENCE,
        synthetic=True,
        bounds=None,
    )
