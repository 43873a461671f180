"""The update that a server makes of records of its own, for aggregators that trust it (FLTrust)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fedlab import seeds
from fedlab.clients import ClientConfig, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.errors import UsageError
from fedlab.strategies.deltas import flatten
from fedlab.tasks import State, Task

SERVER = -1
"""The server's number among the clients, in the seed tree."""


class RootUpdate:
    """Trains a few records of the training data, drawn uniformly, as a client would.

    Args:
        aggregator: says in `root_records` how many.

    Raises:
        UsageError: more records than there are.
    """

    def __init__(self, task: Task, config: ClientConfig, seed: int, aggregator: object) -> None:
        size = int(getattr(aggregator, "root_records", 100))
        if not 1 <= size <= len(task.train):
            raise UsageError(f"root_records = {size}; expected 1 to {len(task.train)}, the training records")
        self.task, self.config, self.seed = task, config, seed
        generator = seeds.numpy_generator(seed, "root")
        self.records = np.sort(generator.choice(len(task.train), size=size, replace=False))
        self._training: LocalTraining | None = None

    def __call__(self, state: State, round: int) -> Tensor:
        """(d,) float64: by how much `state` moves in a round on the server's records."""
        if self._training is None:
            model = self.task.model(seeds.derive(self.seed, "init"))
            self._training = LocalTraining(
                model, self.task.loss, self.task.train, LocalRule(), self.config, self.seed
            )
        plan = plan_batches(len(self.records), self.config, self.seed, round, SERVER)
        trained = self._training([ClientJob(SERVER, round, state, {}, self.records, plan)])[0].state
        names = self._training.model.parameter_names
        return flatten(trained, names) - flatten(state, names)
