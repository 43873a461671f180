"""Several tasks at one server: a learner for each, and their models as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord

from fedlab.clients.several import TASK, joined, part_of
from fedlab.errors import UsageError
from fedlab.runtime.arrays import array_record, tensors
from fedlab.snapshot import Snapshot
from fedlab.strategies.learner import Learner
from fedlab.strategies.messages import Instructions
from fedlab.tasks import State


@dataclass(frozen=True)
class TaskServer:
    """One task, as its server knows it.

    Attributes:
        learner: what becomes of its updates.
        rate: the clients' learning rate.
        steps: that a client takes for one message, on average.
    """

    learner: Learner
    rate: float = 1.0
    steps: float = 1.0

    @property
    def server_rate(self) -> float:
        """The learning rate of its server optimizer; 1 where that has none."""
        return float(getattr(self.learner.optimizer, "learning_rate", 1.0))


class TaskServers:
    """The servers of all tasks, by label; a task alone may have the label "".

    Attributes:
        finished: tasks that are as good as they have to be, in the order in which that was told.

    Raises:
        UsageError: there is none, or clients' memories would have to be told which of their rounds counted.
    """

    def __init__(self, servers: Mapping[str, TaskServer]) -> None:
        if not servers:
            raise UsageError("no tasks; expected at least one")
        for one in servers.values():
            if one.learner.server.in_step:
                raise UsageError(
                    f"the server's half of the local rule ({one.learner.server.name}) must know which of a"
                    " client's updates counted, of which this strategy keeps no record; choose another rule"
                )
        self.servers = dict(servers)
        self.finished: dict[str, None] = {}

    def __getitem__(self, label: str) -> TaskServer:
        return self.servers[label]

    @property
    def labels(self) -> list[str]:
        """Of all tasks, in their order."""
        return list(self.servers)

    @property
    def unfinished(self) -> list[str]:
        """Of those that go on."""
        return [label for label in self.servers if label not in self.finished]

    def finish(self, labels: Iterable[str]) -> list[str]:
        """Note that tasks are finished; those for which that is news.

        Raises:
            UsageError: there is no such task.
        """
        news = [label for label in labels if label not in self.finished]
        for label in news:
            if label not in self.servers:
                raise UsageError(f"there is no task {label!r}; expected one of {', '.join(self.servers)}")
            self.finished[label] = None
        return news

    @property
    def uplinks(self) -> tuple[str, ...]:
        """The arrays that clients send beside their update, for the guard to expect: the same for all."""
        first, *others = (one.learner.uplinks for one in self.servers.values())
        if any(one != first for one in others):
            raise UsageError(
                "clients send more than an update (the local rule has a server's half), and differently named"
                " for each task; run each task alone, or choose another rule"
            )
        return first

    def snapshot(self) -> Snapshot:
        """What the learners remember, and which tasks are finished."""
        whole = Snapshot.of(
            {f"task {index}": one.learner.snapshot() for index, one in enumerate(self.servers.values())}
        )
        whole.values["finished"] = list(self.finished)
        return whole

    def restore(self, snapshot: Snapshot) -> None:
        """Remember it again.

        Raises:
            DataError: the state of another algorithm.
        """
        for index, one in enumerate(self.servers.values()):
            one.learner.restore(snapshot.get(f"task {index}"))
        self.finished = dict.fromkeys(snapshot.values["finished"])


class Models:
    """The models of all tasks, as one and each for itself.

    Args:
        arrays: all of them: `label/name`, or plain names for the label "".

    Attributes:
        arrays: the same, as it is now.
    """

    def __init__(self, arrays: ArrayRecord, labels: Sequence[str]) -> None:
        self.arrays, whole = arrays, tensors(arrays)
        self._states = {label: part_of(whole, label) for label in labels}
        self._records = {label: array_record(self._states[label]) if label else arrays for label in labels}
        self._told: dict[str, Instructions] = {}

    def __getitem__(self, label: str) -> State:
        """One task's model, under plain names."""
        return self._states[label]

    def replace(self, made: Mapping[str, ArrayRecord]) -> None:
        """These tasks have new models."""
        for label, record in made.items():
            self._records[label], self._states[label] = record, tensors(record)
        whole = self._records.get("")
        self.arrays = array_record(joined(self._states)) if whole is None else whole

    def instructions(
        self, label: str, learner: Learner, config: ConfigRecord | None, round: int
    ) -> Instructions:
        """The messages of a task's model."""
        found = self._told.get(label)
        record = self._records[label]
        if found is None or found.round != round or found.records["arrays"] is not record:
            about = ConfigRecord({**(config or {}), **({TASK: label} if label else {})})
            found = self._told[label] = Instructions(learner.records(record, self[label]), about, round)
        return found
