"""The world around a cell: its simulated devices, a Grid over them, and who stands in between.

From the clients to the strategy: Grid, adversaries (if there are any), guard (turns malformed updates
away), tap (shows what is left).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedlab import seeds
from fedlab.adversaries import AdversarialGrid, Group
from fedlab.clients import ClientConfig
from fedlab.clients.plan import steps_per_round
from fedlab.experiment.cells import Cell, Parts
from fedlab.experiment.fleets import fleet
from fedlab.experiment.watch import Watcher
from fedlab.runtime import Executor, SimulationGrid, TappedGrid
from fedlab.runtime.guard import GuardedGrid
from fedlab.scenario import Scenario
from fedlab.strategies.rounds import OwnRounds
from fedlab.tasks import LazyOwners
from fedlab.tasks.population import Lazy, sizes


def simulation(
    cell: Cell, scenario: Scenario, parts: Parts, owners: Sequence[NDArray[np.int64]], executor: Executor
) -> SimulationGrid:
    """The Grid on which the cell's clients are simulated."""
    held = sizes(owners)
    examples: Sequence[int] = Lazy(len(held), lambda device: worked_through(held[device], parts.config))
    if not isinstance(owners, LazyOwners):
        examples = list(examples)  # every trip asks
    return SimulationGrid(
        parts.app, fleet(scenario.devices, examples), executor, seed=cell.seed, chunk=parts.chunking.size
    )


def attacked(grid: Grid, cell: Cell, scenario: Scenario, parts: Parts, groups: Sequence[Group]) -> Grid:
    """`grid`, on which the adversaries send what they choose to; itself if all send what they trained."""
    if not any(group.crafts for group in groups):
        return grid
    parameters = [name for name in parts.model.parameter_names if name not in parts.personal]
    wait, apart = scenario.strategy.over_selection == 1.0, isinstance(parts.strategy, OwnRounds)
    return AdversarialGrid(grid, groups, parameters, cell.seed, wait=wait, apart=apart)


def watched(grid: Grid, scenario: Scenario, strategy: Strategy, watcher: Watcher) -> Grid:
    """What the strategy gets to see of `grid`."""
    if scenario.guard.enabled:
        grid = GuardedGrid(
            grid,
            max_norm=scenario.guard.max_norm,
            quorum=scenario.strategy.quorum,
            weight=getattr(strategy, "weighted_by_key", "num-examples"),  # of flwr's strategies
            uplinks=getattr(strategy, "uplinks", None),  # of fedlab's
            rejected=watcher.reject,
        )
    return TappedGrid(grid, watcher, watcher.missing)


@contextmanager
def global_draws(cell: Cell) -> Iterator[Callable[[int], None]]:
    """Seeds what Flower's own strategies draw from, the global generators, round by round (clients have
    their own: `runtime.executors`).

    Gives a function to call with a round's number before it begins; puts the generators back.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def begin(round: int) -> None:
        random.seed(seeds.derive(cell.seed, "global", round))
        np.random.seed(seeds.derive(cell.seed, "global", round) % 2**32)
        torch.manual_seed(seeds.derive(cell.seed, "global", round))

    try:
        yield begin
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def worked_through(records: int, config: ClientConfig) -> int:
    """Records that a client trains on in a round, each as often as it is used (Poisson: expected)."""
    if config.local_steps is None and config.sampling != "poisson":
        return config.local_epochs * records
    return steps_per_round(records, config) * min(config.batch_size or records, records)
