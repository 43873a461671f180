"""Populations that are never listed: a client's records are looked up when somebody asks for them.

A fleet may have 10^8 devices of which a run hears a few thousand. What a client holds is therefore a pure
function of the seed and its number: nothing is stored for clients who never train, and no answer depends
on what was asked before, nor on how many others there are.
"""

from __future__ import annotations

import functools
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlab import seeds
from fedlab.errors import UsageError
from fedlab.tasks.task import Dataset, Records

Ids = NDArray[np.int64]
T = TypeVar("T")

KEPT = 1024
"""Clients whose records are remembered for a while: those of a large cohort."""

_NORMAL = statistics.NormalDist()


class Lazy(Sequence[T]):
    """`count` values that are made when they are asked for: `make(index)`."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        found = range(len(self))[index]
        if isinstance(found, range):
            return Lazy(len(found), lambda place: self[found[place]])
        return self._make(found)


class Sizes(Lazy[int]):
    """How many records each client of a `LazyOwners` holds.

    Attributes:
        least, most: bounds that hold for every client.
    """

    def __init__(self, owners: LazyOwners) -> None:
        super().__init__(len(owners), owners.size)
        self.least, self.most = owners.least, owners.most


class LazyOwners(Lazy[Ids], ABC):
    """Who owns which records in a population that is never listed; `Task.owners` may be one.

    Args:
        count: number of clients.
        least, most: records that a client holds at least and at most.
    """

    def __init__(self, count: int, least: int, most: int) -> None:
        super().__init__(count, self._remembered)
        self.least, self.most = least, most

    @abstractmethod
    def records(self, client: int) -> Ids:
        """(n,) ids of the client's records, each once, the same whenever it is asked."""

    def size(self, client: int) -> int:
        """How many records the client holds; override it where that is known without looking them up."""
        return len(self[client])

    def _remembered(self, client: int) -> Ids:
        return self._cache(client)

    @functools.cached_property
    def _cache(self) -> Callable[[int], Ids]:
        def look_up(client: int) -> Ids:
            found = self.records(client)
            found.flags.writeable = False  # whoever asks next gets the same array
            return found

        return functools.lru_cache(KEPT)(look_up)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_cache"}


def sizes(owners: Sequence[Ids]) -> Sequence[int]:
    """How many records each client holds; a list only where the clients are one."""
    return Sizes(owners) if isinstance(owners, LazyOwners) else tuple(len(ids) for ids in owners)


@runtime_checkable
class Generated(Records, Protocol):
    """Records of which every client has its own, made when they are asked for; nobody ever lists them."""

    @property
    def slots(self) -> int:
        """The most records that one client may have."""

    def own(self, client: int, labels: Ids) -> Ids:
        """(n,) ids, ascending, of `client`'s records with the given labels (n,); no other client has them."""


def drawn(
    data: Records,
    clients: int,
    *,
    generator: np.random.Generator,
    median: Annotated[float, Field(gt=0)] = 33.0,
    sigma: Annotated[float, Field(ge=0, le=10)] = 0.8,
    least: Annotated[int, Field(ge=1)] = 10,
    most: Annotated[int, Field(ge=1)] = 300,
    alpha: Annotated[float, Field(ge=1e-4, le=1e6)] | None = None,
) -> DrawnOwners:
    """Fleets of any size: each client draws its own number of records and its own mix of labels.

    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019, https://arxiv.org/abs/1909.06335.

    Client k holds n_k = median · exp(sigma · N(0, 1)) records, rounded, from `least` to `most`, with labels
    from q_k ~ Dir(alpha, ..., alpha). It takes them from the data set: no record twice, but another client
    may hold the same. A class that runs out is made up for by the others. Where each client has records of
    its own (`gaussians`), nobody else has them. Deviation from the paper: all classes have the same alpha,
    whatever their share of the data.

    Args:
        median: records that half of the clients do not exceed.
        sigma: standard deviation of the logarithm; 0 gives all clients the same number.
        least, most: bounds of the number; never more than the data set has.
        alpha: concentration of the labels; small gives each client few classes. Without it, clients have the
            labels of the data.
    """
    return DrawnOwners(data, clients, int(generator.integers(2**63)), median, sigma, least, most, alpha)


class DrawnOwners(LazyOwners):
    """The clients of `drawn`: all that they hold follows from `seed` and their number.

    Raises:
        UsageError: a parameter out of range.
    """

    def __init__(
        self,
        data: Records,
        clients: int,
        seed: int,
        median: float,
        sigma: float,
        least: int,
        most: int,
        alpha: float | None,
    ) -> None:
        self._stock: _Pool | _Own = _Own(data) if isinstance(data, Generated) else _pool(data)
        for name, value in (("clients", clients), ("least", least), ("most", most)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} = {value!r}; expected a whole number of at least 1")
        if not 0.0 < median < math.inf:
            raise UsageError(f"median = {median!r}; expected a finite number above 0")
        if not 0.0 <= sigma <= 10.0:
            raise UsageError(f"sigma = {sigma!r}; expected a number from 0 to 10")
        if alpha is not None and not 1e-4 <= alpha <= 1e6:
            raise UsageError(f"alpha = {alpha!r}; expected a number from 0.0001 to 1000000")
        most = min(most, self._stock.largest)
        if least > most:
            raise UsageError(
                f"least = {least}; expected at most {most}, the smaller of `most` and what there is to hold"
            )
        super().__init__(clients, least, most)
        self.seed, self.median, self.sigma, self.alpha = seed, median, sigma, alpha

    def size(self, client: int) -> int:
        """n_k, of one number of the seed tree: a fleet asks it for every trip."""
        share = ((seeds.derive(self.seed, "size", client) >> 11) + 0.5) / 2**52
        wanted = math.log(self.median) + self.sigma * _NORMAL.inv_cdf(share)
        return min(max(round(math.exp(min(wanted, 700.0))), self.least), self.most)

    def records(self, client: int) -> Ids:
        generator = seeds.numpy_generator(self.seed, "records", client)
        mix = self._stock.mix
        if self.alpha is not None:
            present = mix > 0.0
            mix = np.zeros(len(mix))
            mix[present] = generator.dirichlet(np.full(present.sum(), self.alpha))
        return self._stock.take(client, self.size(client), mix, generator)


class _Own:
    """Records that each client has for itself; all labels are as frequent."""

    def __init__(self, data: Generated) -> None:
        self.data, self.largest = data, data.slots
        self.mix = np.full(data.classes, 1.0 / data.classes)

    def take(self, client: int, size: int, mix: NDArray[np.float64], generator: np.random.Generator) -> Ids:
        return self.data.own(client, np.repeat(np.arange(len(mix)), generator.multinomial(size, mix)))


class _Pool:
    """The records of a data set, sorted by class: every client takes from all of them."""

    def __init__(self, labels: Ids, classes: int) -> None:
        self.order = np.argsort(labels, kind="stable")
        self.held = np.bincount(labels, minlength=classes)
        self.start = np.cumsum(self.held) - self.held
        self.largest = len(labels)
        self.mix = self.held / len(labels)

    def take(self, client: int, size: int, mix: NDArray[np.float64], generator: np.random.Generator) -> Ids:
        counts = generator.multinomial(size, mix)
        while (excess := np.maximum(counts - self.held, 0)).any():
            counts -= excess
            left = np.where(counts < self.held, mix, 0.0)
            left = left if left.sum() > 0.0 else (counts < self.held).astype(np.float64)
            counts += generator.multinomial(excess.sum(), left / left.sum())
        picks = [
            self.start[label] + generator.choice(self.held[label], size=counts[label], replace=False)
            for label in np.flatnonzero(counts)
        ]
        return np.sort(self.order[np.concatenate(picks)])


def _pool(data: Records) -> _Pool:
    if not isinstance(data, Dataset):
        raise UsageError(
            f"the records of {data.name} can neither be listed nor does each client have its own; expected a"
            " Dataset, or records with the methods of fedlab.tasks.population.Generated"
        )
    return _Pool(data.y, data.classes)
