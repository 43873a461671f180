"""The requests of a fleet that several tasks share: who is due how many, and who may start one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from fedlab.errors import UsageError
from fedlab.snapshot import Snapshot
from fedlab.strategies.asynchronous.allocation import buffer_of, even, handed_over, shared_out

GROWTH = 2
"""Requests that may take the place of one that was answered, so that a task may grow by one at a time."""
PERIOD = 0.75
"""Requests are shared out anew when this many times M updates per unfinished task have come."""


class Requests:
    """M requests among tasks.

    Args:
        labels: of the tasks.
        total: M.
        quantum: requests that stand behind each update of a buffer.
        floor: updates that a buffer needs.

    Attributes:
        due: R_m, by task; their sum is M for good.
        history: every change of the allocation, and after how many updates it came.

    Raises:
        UsageError: a number out of range, or too few requests for the floors.
    """

    def __init__(self, labels: Sequence[str], total: int, quantum: int, floor: int = 1) -> None:
        if quantum < 1:
            raise UsageError(f"quantum = {quantum}; expected at least 1")
        if total < len(labels):
            raise UsageError(
                f"concurrency = {total}; expected at least {len(labels)}, a request for each task"
            )
        self.total, self.quantum, self.floor = total, quantum, floor
        self.due = even(total, labels)
        least = min(map(self.buffer, self.due))
        if least < floor:
            raise UsageError(
                f"the aggregator needs {floor} updates, but a buffer holds {least}; raise strategy.cohort"
            )
        self.updates = 0
        self.history: list[tuple[int, dict[str, int]]] = [(0, dict(self.due))]
        self._since = 0
        self._openings = Counter(self.due)

    def buffer(self, label: str) -> int:
        """b_m, updates that make a task's next model."""
        return buffer_of(self.due[label], self.quantum)

    def ended(self, label: str) -> None:
        """A request of the task is not under way any more."""
        self._openings[label] += GROWTH

    def counted(self) -> None:
        """An update came that is of use."""
        self.updates += 1
        self._since += 1

    def startable(self, under_way: Mapping[str, int]) -> list[str]:
        """The tasks of the requests that start now, in order; until the next one ends there are no others.

        A task that is left without any, since those that grow took the room, keeps its turn: no answer of
        its own would ever give it another.
        """
        room, found = self.total - sum(under_way.values()), list[str]()
        for label, openings in self._openings.items():
            wanted = self.due[label] - under_way.get(label, 0)
            found += [label] * min(openings, wanted, room - len(found))
        self._openings = Counter(
            {
                label: openings
                for label, openings in self._openings.items()
                if label not in found and not under_way.get(label, 0)
            }
        )
        return found

    def finish(self, label: str) -> None:
        """A task needs no requests any more; they start at once for the others."""
        before, self.due = self.due, handed_over(self.due, label)
        del self._openings[label]
        for one, held in self.due.items():
            if held > before[one]:
                self._openings[one] += held - before[one]
        self._note()

    @property
    def settled(self) -> bool:
        """Whether it is too early to share them out anew."""
        return self._since < PERIOD * self.total * sum(held > 0 for held in self.due.values())

    def share_out(self, weights: Mapping[str, float]) -> None:
        """Anew, in proportion to the weights of the tasks that are not finished; weights that are all 0, or
        infinite, change nothing."""
        self._since = 0
        if all(map(math.isfinite, weights.values())) and any(weights.values()):
            self.due |= shared_out(self.total, weights, self.quantum, self.floor)
            self._note()

    def _note(self) -> None:
        if self.due != self.history[-1][1]:
            self.history.append((self.updates, dict(self.due)))

    def snapshot(self) -> Snapshot:
        values = {
            "due": list(self.due.items()),
            "updates": self.updates,
            "history": [[updates, list(due.items())] for updates, due in self.history],
            "since": self._since,
            "openings": list(self._openings.items()),
        }
        return Snapshot(values=values)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken."""
        values = snapshot.values
        self.due, self.updates, self._since = dict(values["due"]), values["updates"], values["since"]
        self.history = [(updates, dict(due)) for updates, due in values["history"]]
        self._openings = Counter(dict(values["openings"]))
