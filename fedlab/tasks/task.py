"""What is learned: labelled records (images as a rule), a network, a loss."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlab.errors import DataError, UsageError
from fedlab.tasks.functional import FunctionalModel, initialise


@runtime_checkable
class Records(Protocol):
    """Labelled records that are looked up by id, in the words of `Dataset`; there may be too many to list."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def synthetic(self) -> bool: ...
    @property
    def pixels(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def images(self, ids: NDArray[np.int64] | Sequence[int]) -> Tensor: ...
    def labels(self, ids: NDArray[np.int64] | Sequence[int]) -> Tensor: ...
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class Dataset:
    """Labelled records, held as the bytes they came in.

    Attributes:
        x: (N, C, H, W), uint8 (0 to 255) or float32 within `bounds`; without bounds float64 will do, too.
        y: (N,) int64 in [0, classes).
        groups: (N,) natural owner of each record (a photograph, a writer), if the data has one.
        source, licence: where it came from; both are printed in every report.
        synthetic: made by a generator; a report on it supports no privacy claim.
        bounds: the lowest and the highest value; pixels unless given. None for features that are no pixels:
            any finite number.
    """

    name: str
    x: NDArray[np.generic]
    y: NDArray[np.int64]
    classes: int
    source: str
    licence: str = "unknown"
    groups: NDArray[np.int64] | None = None
    synthetic: bool = False
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        problem = None
        if self.x.ndim != 4:
            problem = f"images of shape {self.x.shape}; expected (N, C, H, W)"
        elif len(self.x) != len(self.y):
            problem = f"{len(self.x)} images but {len(self.y)} labels"
        elif len(self.x) == 0:
            problem = "no records"
        elif self.y.min() < 0 or self.y.max() >= self.classes:
            problem = f"labels from {self.y.min()} to {self.y.max()}; expected 0 to {self.classes - 1}"
        else:
            problem = self._values()
        if problem:
            raise DataError(f"data set {self.name}: {problem}")

    def _values(self) -> str | None:
        """What is wrong with the type or the range of x."""
        if self.x.dtype == np.uint8:
            return None if self.pixels else f"uint8 pixels stand for [0, 1], but bounds = {self.bounds}"
        kinds = (np.float32,) if self.bounds else (np.float32, np.float64)
        if self.x.dtype not in kinds:
            expected = (
                f"uint8 or float32 in {_range(self.bounds)}" if self.bounds else "float32 or float64 features"
            )
            return f"pixels of type {self.x.dtype}; expected {expected}"
        low, high = float(self.x.min()), float(self.x.max())
        finite = np.isfinite(low) and np.isfinite(high)
        if self.bounds and not (finite and low >= self.bounds[0] and high <= self.bounds[1]):
            return f"pixels from {low:g} to {high:g}; expected finite values in {_range(self.bounds)}"
        return None if finite else f"features from {low:g} to {high:g}; expected finite values"

    def __len__(self) -> int:
        return len(self.y)

    @property
    def pixels(self) -> bool:
        """Whether the records are images with pixels in [0, 1], which can be shown, scored and fooled."""
        return self.bounds == (0.0, 1.0)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image."""
        return tuple(int(side) for side in self.x.shape[1:])

    def images(self, ids: NDArray[np.int64] | Sequence[int]) -> Tensor:
        """(len(ids), C, H, W) float32 within the bounds; float64 where the records are."""
        picked = torch.from_numpy(np.ascontiguousarray(self.x[np.asarray(ids, dtype=np.int64)]))
        return picked.float() / 255.0 if picked.dtype == torch.uint8 else picked

    def labels(self, ids: NDArray[np.int64] | Sequence[int]) -> Tensor:
        """(len(ids),) int64."""
        return torch.from_numpy(self.y[np.asarray(ids, dtype=np.int64)])

    def sha256(self) -> str:
        """Hash of the records themselves, in order."""
        digest = hashlib.sha256(repr((self.x.dtype.str, self.x.shape)).encode())
        digest.update(np.ascontiguousarray(self.x).data)
        digest.update(np.ascontiguousarray(self.y).data)
        return digest.hexdigest()


def _range(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0]:g}, {bounds[1]:g}]"


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Per-example loss (B,) of `logits` (B, C) for labels (B,) or probabilities (B, C)."""
    if targets.is_floating_point():
        return nn.functional.cross_entropy(logits, targets, reduction="none")
    # Not torch's own, which looks for labels to ignore at each call: a data set has none, and stacked
    # steps of small networks feel each operation.
    return -logits.log_softmax(1).gather(1, targets[:, None])[:, 0]


@dataclass(frozen=True)
class Task:
    """A data set, a network and a loss: all that a client needs to know about what is learned.

    Bring your own by filling the fields::

        Task(train=Dataset(...), test=Dataset(...), network=MyNet)

    Attributes:
        train, test: records of the clients and held-out records. Those of the clients may be any `Records`:
            what is made when it is asked for needs no arrays.
        network: called with torch's generator seeded; returns a fresh `nn.Module` that maps
            (B, C, H, W) within the bounds to logits (B, classes).
        loss: per-example loss (B,) of logits for labels or class probabilities.
        owners: record ids of each client, if the task brings its own division of the data (a list, or a
            `fedlab.tasks.population.LazyOwners`); otherwise the scenario's partition divides `train`.
    """

    train: Records
    test: Dataset
    network: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    owners: Sequence[NDArray[np.int64]] | None = field(default=None)

    def __post_init__(self) -> None:
        if self.train.shape != self.test.shape or self.train.classes != self.test.classes:
            raise DataError(
                f"task {self.train.name}: training records are {self.train.shape} in"
                f" {self.train.classes} classes, test records {self.test.shape} in {self.test.classes};"
                " expected the same"
            )

    @property
    def name(self) -> str:
        return self.train.name

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.train.shape

    @property
    def classes(self) -> int:
        return self.train.classes

    def model(self, seed: int) -> FunctionalModel:
        """The network with the initial weights that `seed` gives, as a pure function.

        Raises:
            UsageError: the network cannot be trained here, or does not fit the data; says which.
        """
        try:
            model = FunctionalModel(initialise(self.network, seed), self.input_shape)
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"the network cannot take {self.input_shape} images: {error}") from error
        if tuple(model.outputs) != (self.classes,):
            raise UsageError(
                f"the network gives {tuple(model.outputs)} outputs per image; expected ({self.classes},):"
                " one per class"
            )
        if not model.parameter_names:
            raise UsageError("the network has no parameters to learn; unfreeze some, or choose another")
        return model
