"""Schedules: whom the server asks, and when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedlab import seeds
from fedlab.errors import UsageError


@dataclass(frozen=True)
class Synchronous:
    """Each round asks `cohort` clients, drawn uniformly without replacement, and waits for them.

    With over-selection it asks more, and whoever runs the rounds goes on with the first `cohort` good
    replies (Bonawitz et al., "Towards Federated Learning at Scale", MLSys 2019,
    https://arxiv.org/abs/1902.01046): stragglers and drop-outs cost no time, and slow clients are heard
    less often.

    The draw depends on (seed, round) alone: every run of a scenario asks the same clients.

    Args:
        cohort: clients whose replies a round needs.
        seed: of the draws.
        over_selection: asks this many times the cohort, rounded up, and never more than there are.

    Raises:
        UsageError: a number out of range.
    """

    cohort: int
    seed: int
    over_selection: float = 1.0

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

    def sample(self, nodes: Sequence[int], round: int) -> list[int]:
        """The nodes to ask in `round`, ascending.

        Raises:
            UsageError: the cohort is larger than the population.
        """
        if self.cohort > len(nodes):
            raise UsageError(
                f"a cohort of {self.cohort} cannot be drawn from {len(nodes)} clients;"
                " lower strategy.cohort or raise clients.count"
            )
        picks = seeds.numpy_generator(self.seed, "sampling", round).choice(
            len(nodes), size=self.size(len(nodes)), replace=False
        )
        return sorted(nodes[int(i)] for i in picks)
