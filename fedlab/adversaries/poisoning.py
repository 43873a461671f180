"""Poisoned records in their place: copies at the end of the training data, owned by those who attack.

The records themselves stay as they are, for whoever else holds or counts them; nothing that trains a
client has to know of adversaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedlab import seeds
from fedlab.adversaries.contract import poisoned
from fedlab.adversaries.groups import Group
from fedlab.errors import UsageError
from fedlab.tasks import Dataset, LazyOwners, Task

Owners = Sequence[NDArray[np.int64]]


def poison(task: Task, owners: Owners, groups: Sequence[Group], seed: int) -> tuple[Task, Owners]:
    """The task with poisoned copies of the adversaries' records, and who trains on what.

    What a client makes of its records depends on (seed, client) alone.

    Raises:
        UsageError: the attack does not fit the data (a class that there is not, say), or the records are made
            when they are asked for.
        PluginError: the adversary returned records that cannot be trained on.
    """
    if not any(group.poisons for group in groups):
        return task, owners
    data, mine = task.train, dict[int, NDArray[np.int64]]()
    if not isinstance(data, Dataset):
        raise UsageError(
            f"the records of {data.name} are made when they are asked for, and cannot be poisoned yet; say"
            " how many there are, or choose an attack on updates"
        )
    images, labels, origins, end = [data.x], [data.y], [np.arange(len(data))], len(data)
    for group in groups:
        for client in group.clients if group.poisons else ():
            ids = owners[client]
            x, y = poisoned(
                group.adversary,
                data.images(ids),
                data.labels(ids),
                data.classes,
                seeds.torch_generator(seed, "adversary", client),
            )
            pixels = x.numpy()
            images.append(np.rint(pixels * 255.0).astype(np.uint8) if data.x.dtype == np.uint8 else pixels)
            labels.append(y.numpy())
            origins.append(ids)
            mine[client] = np.arange(end, end + len(ids))
            end += len(ids)
    if end == len(data):
        return task, owners
    whole = _dataset(data, np.concatenate(images), np.concatenate(labels), np.concatenate(origins))
    if isinstance(owners, LazyOwners):
        return replace(task, train=whole), PoisonedOwners(owners, mine)
    return replace(task, train=whole), [mine.get(client, ids) for client, ids in enumerate(owners)]


class PoisonedOwners(LazyOwners):
    """A population that is never listed, of whose clients a few train on other records."""

    def __init__(self, owners: LazyOwners, poisoned: Mapping[int, NDArray[np.int64]]) -> None:
        super().__init__(len(owners), owners.least, owners.most)
        self.owners, self.poisoned = owners, poisoned

    def size(self, client: int) -> int:
        return self.owners.size(client)  # a record is poisoned in its place

    def records(self, client: int) -> NDArray[np.int64]:
        return self.poisoned[client] if client in self.poisoned else self.owners[client]


def _dataset(
    data: Dataset, x: NDArray[np.generic], y: NDArray[np.int64], origins: NDArray[np.int64]
) -> Dataset:
    return replace(data, x=x, y=y, groups=None if data.groups is None else data.groups[origins])
