"""Schedules: whom the server asks, when, and for how much."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedlab import seeds
from fedlab.errors import PluginError, UsageError
from fedlab.strategies.sampling import Population, Sampler, uniform


@dataclass(frozen=True)
class Synchronous:
    """Each round asks `cohort` clients and waits for them; whom, the sampler says.

    With over-selection it asks more, and whoever runs the rounds goes on with the first `cohort` good
    replies (Bonawitz et al., "Towards Federated Learning at Scale", MLSys 2019,
    https://arxiv.org/abs/1902.01046): stragglers and drop-outs cost no time, and slow clients are heard
    less often.

    The draw depends on (seed, round) alone: every run of a scenario asks the same clients.

    Args:
        cohort: clients whose replies a round needs.
        seed: of the draws.
        over_selection: asks this many times the cohort, rounded up, and never more than there are.
        sampler: how clients are drawn; uniformly without replacement unless given.
        records: how many records each client holds, in the order of ids, for samplers that need it.

    Raises:
        UsageError: a number out of range.
    """

    cohort: int
    seed: int
    over_selection: float = 1.0
    sampler: Sampler = uniform
    records: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.cohort < 1:
            raise UsageError(f"a cohort has at least one client, got {self.cohort}")
        if not 1.0 <= self.over_selection < math.inf:
            raise UsageError(
                f"over_selection = {self.over_selection}; expected a finite number of at least 1"
            )

    def size(self, clients: int) -> int:
        """How many of `clients` a round asks."""
        # 10 x 1.1 is 11.000000000000002 in floating point, and still means 11.
        return min(clients, math.ceil(round(self.cohort * self.over_selection, 9)))

    def sample(
        self, nodes: Sequence[int], round: int, available: Callable[[int], bool] | None = None
    ) -> list[int]:
        """The nodes to ask in `round`, ascending; some samplers ask fewer than the cohort, or none.

        Args:
            nodes: the ids of all, ascending.
            available: whether a node is there now; all are, if None.

        Raises:
            UsageError: the cohort is larger than the population, or the sampler lacks what it needs.
            PluginError: the sampler returned something else.
        """
        if self.cohort > len(nodes):
            raise UsageError(
                f"a cohort of {self.cohort} cannot be drawn from {len(nodes)} clients;"
                " lower strategy.cohort or raise clients.count"
            )
        population = Population(nodes, self.records, available, self.seed)
        generator = seeds.numpy_generator(self.seed, "sampling", round)
        return checked(self.sampler, self.sampler(population, self.size(len(nodes)), round, generator), nodes)

    def order(self, cohort: list[int], round: int) -> list[int]:
        """The order in which a round's clients are asked: ascending, or drawn under over-selection.

        Of replies that arrive at the same time, those asked first count: without a draw, of a fleet whose
        devices are equally quick the highest ids would never be heard.
        """
        if self.over_selection == 1.0:
            return cohort
        drawn = seeds.numpy_generator(self.seed, "order", round).permutation(len(cohort))
        return [cohort[int(position)] for position in drawn]


@dataclass(frozen=True)
class Stragglers:
    """A share of each round's clients does not finish its work: the systems heterogeneity of FedProx.

    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, https://arxiv.org/abs/1812.06127,
    section 5.2: of the clients that a round asks, round((1 − fraction) cohort) do all their epochs; each
    other gets through 1 to E − 1 of them, drawn uniformly, or is dropped as FedAvg would do.

    Args:
        fraction: share of a round's clients that are too slow.
        epochs: E, the epochs of the others.
        partial: whether what stragglers get done counts; if not, they are not asked at all.
        seed: of the draws, which depend on (seed, round) alone: every algorithm meets the same stragglers.

    Raises:
        UsageError: a number out of range.
    """

    fraction: float
    epochs: int
    partial: bool
    seed: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.fraction <= 1.0:
            raise UsageError(f"fraction = {self.fraction}; expected a share of clients from 0 to 1")
        if self.epochs < 1 + self.partial:
            raise UsageError(
                f"epochs = {self.epochs}; expected at least {1 + self.partial}, or nobody can do less"
            )

    def __call__(self, cohort: Sequence[int], round: int) -> dict[int, int]:
        """Epochs of each client that is asked, ascending by client."""
        generator = seeds.numpy_generator(self.seed, "stragglers", round)
        order = generator.permutation(len(cohort))
        slow = order[builtins.round((1.0 - self.fraction) * len(cohort)) :]
        done = generator.integers(1, max(self.epochs, 2), size=len(cohort))
        work = dict.fromkeys(cohort, self.epochs)
        for position in slow.tolist():
            work[cohort[position]] = int(done[position])
        if not self.partial:
            late = {cohort[position] for position in slow.tolist()}
            work = {node: epochs for node, epochs in work.items() if node not in late}
        return work


def called(sampler: Sampler) -> str:
    """`the sampler uniform`, for errors."""
    name = getattr(getattr(sampler, "func", sampler), "__name__", type(sampler).__name__)
    return f"the sampler {name}"


def checked(sampler: Sampler, picks: Sequence[int], nodes: Sequence[int]) -> list[int]:
    """What a sampler returned, ascending.

    Raises:
        PluginError: it is something else than ids of different nodes.
    """
    known = nodes if isinstance(nodes, range) else frozenset(nodes)
    try:
        found = sorted({int(node) for node in picks})
    except (TypeError, ValueError):
        found = []
    if len(found) != len(picks) or any(node not in known for node in found):
        raise PluginError(
            f"{called(sampler)} returned {str(picks)[:80]}; expected ids of different clients, from"
            f" {nodes[0]} to {nodes[-1]}"
        )
    return found
