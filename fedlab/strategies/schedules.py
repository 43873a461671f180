"""Schedules: whom the server asks, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedlab import seeds
from fedlab.errors import UsageError


@dataclass(frozen=True)
class Synchronous:
    """Each round asks `cohort` clients, drawn uniformly without replacement, and waits for them.

    The draw depends on (seed, round) alone: every run of a scenario asks the same clients.
    """

    cohort: int
    seed: int

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
            len(nodes), size=self.cohort, replace=False
        )
        return sorted(nodes[int(i)] for i in picks)
