"""From a scenario to the things that it names: the task, and who owns which record."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab import plugins, seeds
from fedlab.errors import FedlabError
from fedlab.scenario import Scenario, load
from fedlab.tasks import Task
from fedlab.tasks.partition import PARTITIONS


def build_task(scenario: Scenario) -> Task:
    """The scenario's data set and network."""
    train_data, test_data = plugins.build("datasets", scenario.task.dataset)
    spec = scenario.task.model
    network = functools.partial(plugins.bind("models", spec), train_data.shape, train_data.classes)
    network()  # a knob out of range fails here, by name
    return Task(train=train_data, test=test_data, network=network)


def divide(scenario: Scenario, task: Task) -> dict[int, Sequence[NDArray[np.int64]]]:
    """Record ids of each client, by seed."""
    if task.owners is not None:
        if len(task.owners) != scenario.clients.count:
            raise FedlabError(
                f"the task brings {len(task.owners)} clients, but clients.count is {scenario.clients.count};"
                " make them equal"
            )
        return dict.fromkeys(scenario.seeds, task.owners)
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


def with_own_task(scenario: str | Path | Mapping[str, Any] | Scenario) -> Mapping[str, Any] | Scenario:
    """The scenario with its [task] replaced by what says that the task came from Python."""
    own = {"dataset": "own", "model": "own"}
    if isinstance(scenario, Mapping):
        return {**scenario, "task": own}
    settings = load(scenario)
    return settings.model_copy(update={"task": type(settings.task).model_validate(own)})


def network_name(task: Task) -> str:
    """What to call a network that came as an object."""
    return str(getattr(task.network, "__name__", type(task.network).__name__))
