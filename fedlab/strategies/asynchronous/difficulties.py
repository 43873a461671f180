"""How much the updates of each task differ, over those that came last."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from torch import Tensor

from fedlab.snapshot import Snapshot
from fedlab.strategies.asynchronous.allocation import WINDOW, difficulty
from fedlab.strategies.deltas import flatten
from fedlab.strategies.several import TaskServers
from fedlab.tasks import State


class Difficulties:
    """v_m of each task, as `allocation` defines it."""

    def __init__(self, tasks: TaskServers) -> None:
        self.tasks = tasks
        self._recent: dict[str, deque[Tensor]] = {label: deque(maxlen=WINDOW) for label in tasks.labels}

    def add(self, label: str, before: State, after: State) -> None:
        """An update of a task's client."""
        names = self.tasks[label].learner.parameters
        self._recent[label].append(flatten(after, names) - flatten(before, names))

    def forget(self, label: str) -> None:
        """Nobody works for that task any more."""
        self._recent[label].clear()

    def of(self, labels: Sequence[str]) -> dict[str, float] | None:
        """Of these tasks; None until enough updates of each have come."""
        if any(len(self._recent[label]) < WINDOW for label in labels):
            return None
        servers = {label: self.tasks[label] for label in labels}
        return {
            label: difficulty(list(self._recent[label]), one.rate, one.server_rate, one.steps)
            for label, one in servers.items()
        }

    def snapshot(self) -> Snapshot:
        """The updates."""
        tensors = {
            f"{task}.{place}": update
            for task, updates in enumerate(self._recent.values())
            for place, update in enumerate(updates)
        }
        return Snapshot(tensors, {"sizes": [len(updates) for updates in self._recent.values()]})

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken."""
        for task, (updates, size) in enumerate(
            zip(self._recent.values(), snapshot.values["sizes"], strict=True)
        ):
            updates.clear()
            updates.extend(snapshot.tensors[f"{task}.{place}"] for place in range(size))
