"""Who trains on which records: as the partition draws them, or as the task brings them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlab import seeds
from fedlab.errors import UsageError
from fedlab.scenario import Scenario
from fedlab.tasks import LazyOwners, Task
from fedlab.tasks.partition import PARTITIONS


def divide(scenario: Scenario, task: Task) -> dict[int, Sequence[NDArray[np.int64]]]:
    """Record ids of each client, by seed."""
    if task.owners is not None:
        return dict.fromkeys(scenario.seeds, _checked(task, scenario.clients.count))
    partition = scenario.clients.partition
    return {
        seed: PARTITIONS[partition.name](
            task.train,
            scenario.clients.count,
            generator=seeds.numpy_generator(seed, "partition"),
            **partition.params,
        )
        for seed in scenario.seeds
    }


def _checked(task: Task, clients: int) -> Sequence[NDArray[np.int64]]:
    """The owners that a task brings, refused by name where they cannot be; of a population that is never
    listed, the first and the last are looked at."""
    given = () if task.owners is None else task.owners
    if len(given) != clients:
        raise UsageError(
            f"the task brings {len(given)} clients, but clients.count is {clients}; make them equal"
        )
    if isinstance(given, LazyOwners):
        for client in (0, clients - 1):
            _check_owner(client, given[client], task)
        return given
    owners = [np.asarray(ids) for ids in given]
    for client, ids in enumerate(owners):
        _check_owner(client, ids, task)
    return [ids.astype(np.int64) for ids in owners]


def _check_owner(client: int, ids: NDArray[np.int64], task: Task) -> None:
    problem = None
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        problem = f"{ids.dtype} of shape {ids.shape}; expected a list of record ids"
    elif len(ids) == 0:
        problem = "no record; leave the client out"
    elif ids.min() < 0 or ids.max() >= len(task.train):
        problem = f"ids from {ids.min()} to {ids.max()}; expected 0 to {len(task.train) - 1}"
    elif len(np.unique(ids)) != len(ids):
        problem = "a record twice, which would double its influence; name each once"
    if problem:
        raise UsageError(f"owners of client {client}: {problem}")
