"""Samplers: which clients a round asks.

A sampler is called `f(population, size, round, generator)` and returns ids of clients to ask, ascending. What
it draws comes from `generator`, which depends on (seed, round) alone: a run asks the same clients however
often it is interrupted. A sampler of one's own is a function with these arguments, or a class of such
objects; either may have parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlab import seeds
from fedlab.errors import UsageError
from fedlab.tasks.population import Sizes

LISTED = 10**7
"""Clients up to which a sampler may put all of them in order in every round."""

TRIES = 100
"""Devices that `available` looks at, for each that a round asks, where there are more."""


@dataclass(frozen=True)
class Population:
    """The clients among whom a round's are drawn, and what the server knows of them.

    Attributes:
        nodes: their ids, ascending; a `range` where there are many.
        records: how many records each holds, in the order of `nodes`; None if the server does not know.
        available: whether a client's device is there now, by its id; None if all are.
        seed: of the run, for draws that are to last longer than a round.
    """

    nodes: Sequence[int]
    records: Sequence[int] | None = None
    available: Callable[[int], bool] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.records is not None and len(self.records) != len(self.nodes):
            raise UsageError(
                f"records of {len(self.records)} clients, but there are {len(self.nodes)}; expected as many"
            )


Sampler = Callable[[Population, int, int, np.random.Generator], list[int]]
"""(population, size, round, generator) -> the clients to ask."""


def uniform(population: Population, size: int, round: int, generator: np.random.Generator) -> list[int]:
    """`size` clients, each as likely as any other, none twice: FedAvg's sampling.

    It costs the same for a hundred clients as for a hundred million.
    """
    picks = generator.choice(len(population.nodes), size=size, replace=False)
    return _ids(population, picks)


def poisson(population: Population, size: int, round: int, generator: np.random.Generator) -> list[int]:
    """Each of n clients independently with probability size / n: `size` of them on average.

    The sampling that privacy amplification is proved for. A round may ask nobody, and is then skipped.
    """
    count = len(population.nodes)
    picks = generator.choice(count, size=generator.binomial(count, size / count), replace=False)
    return _ids(population, picks)


def weighted(population: Population, size: int, round: int, generator: np.random.Generator) -> list[int]:
    """`size` clients one after the other, each with probability n_k / Σ n of the records that are left.

    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, https://arxiv.org/abs/1812.06127.

    Who holds more is asked more often, so the updates should count alike: choose the aggregator `mean`. A
    client without records is never asked. Of a population that is never listed it draws clients uniformly and
    keeps each with probability n_k / max n, which comes to the same.
    """
    if population.records is None:
        raise UsageError(
            'the sampler "weighted" needs to know how many records each client holds; give `records`'
        )
    if isinstance(population.records, Sizes) and 10 * size < len(population.nodes):
        return _ids(population, _kept(population.records, size, generator))
    records = np.asarray(population.records, dtype=np.float64)
    holders = np.flatnonzero(records > 0)
    # A race: with arrival times Exp(1) / n_k the next to arrive is k with probability n_k / Σ n.
    arrivals = generator.exponential(size=len(holders)) / records[holders]
    return _ids(population, holders[np.argsort(arrivals)[:size]])


def cyclic(
    population: Population,
    size: int,
    round: int,
    generator: np.random.Generator,
    *,
    reshuffle: bool = False,
) -> list[int]:
    """Clients in an order that the seed fixes, `size` after `size`, and again from the start.

    Cho, Sharma, Joshi, Xu, Kale, Zhang, "On the Convergence of Federated Averaging with Cyclic Client
    Participation", ICML 2023, https://arxiv.org/abs/2302.03109.

    The paper's groups are given; here the order makes them.

    Args:
        reshuffle: a new order for each pass; the clients that are left over then sit the pass out.
    """
    count, turn = len(population.nodes), round - 1
    if count > LISTED:
        raise UsageError(
            f'the sampler "cyclic" puts all clients in order, but {count} are more than {LISTED}; take'
            ' "uniform", which in such a population hardly asks anybody twice'
        )
    passes, turn = divmod(turn, count // size) if reshuffle else (0, turn)
    order = seeds.numpy_generator(population.seed, "cyclic", passes).permutation(count)
    return _ids(population, order[np.arange(turn * size, (turn + 1) * size) % count])


def available(population: Population, size: int, round: int, generator: np.random.Generator) -> list[int]:
    """Uniformly `size` of the clients that are there now, or all of them if they are fewer.

    No round waits for a device to come back, unless none is there: then it asks as `uniform` does, because
    virtual time stands still while nobody works. Of more than 10^7 clients it looks at 100 at most, drawn
    uniformly, for each that the round asks.
    """
    nodes, there = population.nodes, population.available
    if there is None:
        return uniform(population, size, round, generator)
    if len(nodes) <= LISTED:
        drawn = generator.permutation(len(nodes))
    else:
        drawn = generator.choice(len(nodes), size=min(TRIES * size, len(nodes) // 100), replace=False)
    order = map(int, drawn)
    found = list(itertools.islice((index for index in order if there(nodes[index])), size))
    return _ids(population, np.asarray(found)) if found else uniform(population, size, round, generator)


def _kept(records: Sizes, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`size` positions, none twice, one after the other with probability n_k / Σ n of those that are left."""
    found: dict[int, None] = {}
    while len(found) < size:
        place = int(generator.integers(len(records)))
        if place not in found and generator.random() * records.most < records[place]:
            found[place] = None
    return np.fromiter(found, dtype=np.int64)


def _ids(population: Population, picks: NDArray[np.int64]) -> list[int]:
    return sorted(population.nodes[int(index)] for index in picks)
