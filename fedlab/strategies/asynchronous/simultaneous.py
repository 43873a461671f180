"""FedAST: several tasks trained at once, each with a buffer of its own, on one fleet.

Askin, Sharma, Joe-Wong, Joshi, "FedAST: Federated Asynchronous Simultaneous Training", UAI 2024,
https://arxiv.org/abs/2406.00302. M requests are under way, R_m of them for task m, each at a client that is
drawn with replacement: a client works through its requests one after the other. b_m = ceil(R_m / quantum)
updates make a task's next model, x_m ← x_m + γ Σ (y_i − x_start) / b_m, however stale they are. Who answers
is replaced by a request that starts from the newest model of the same task. `allocation` says how many
requests a task has: the same for all, or more for those whose updates differ more.

Deviations from the authors' code: nothing but M bounds the number of clients that work at the same time; b_m
follows from the requests that a task is due (the code: from those under way); the requests of a finished
task start for the others at once under both allocations (the code: under the static one). What arrives at the
same moment is taken together, and all of it is replaced afterwards, as in `buffered`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedlab.clients.several import task_of
from fedlab.errors import DataError, FedlabError, UsageError
from fedlab.runtime.arrays import tensors
from fedlab.runtime.storage import Reader, Writer
from fedlab.runtime.wrapped import Clocked, WrappedGrid, clock_of, numbered
from fedlab.snapshot import Snapshot
from fedlab.strategies.asynchronous.allocation import buffer_of
from fedlab.strategies.asynchronous.difficulties import Difficulties
from fedlab.strategies.asynchronous.recruiting import Recruiting
from fedlab.strategies.asynchronous.requests import Requests
from fedlab.strategies.asynchronous.trips import Trip, Trips
from fedlab.strategies.learner import Arrival
from fedlab.strategies.replies import in_vain, only
from fedlab.strategies.rounds import Round
from fedlab.strategies.several import Models, TaskServers
from fedlab.strategies.unrounded import Unrounded
from fedlab.tasks import State

PATIENCE = 4
"""A step is given up when this many times M replies in a row brought nothing."""


class FedAST(Unrounded):
    """Several buffers over one fleet.

    Args:
        tasks: their servers, by label.
        recruiting: whom the server asks, request by request.
        requests: how many each task has.
        power: requests are shared out in proportion to v_m^power (`allocation`); None leaves them alone.

    Attributes:
        why_skipped: why the last step left all models as they were; empty if it did not.

    Raises:
        UsageError: a number out of range.
    """

    kind: ClassVar[str] = "fedast"

    def __init__(
        self, tasks: TaskServers, recruiting: Recruiting, requests: Requests, power: float | None = None
    ) -> None:
        if power is not None and not 0.0 < power < math.inf:
            raise UsageError(f"power = {power}; expected a finite number above 0")
        self.tasks, self.recruiting, self.requests, self.power = tasks, recruiting, requests, power
        self.why_skipped = ""
        self.trips = Trips()
        self.held: dict[str, list[tuple[Trip, Message]]] = {label: [] for label in tasks.labels}
        self.versions: dict[str, list[int]] = {label: [] for label in tasks.labels}
        self.staleness: dict[str, Counter[int]] = {label: Counter() for label in tasks.labels}
        self.unneeded = 0
        self.difficulties = Difficulties(tasks)
        self._arrived: deque[Message] = deque()
        self._fruitless: Counter[str] = Counter()
        self._population = 0

    @property
    def uplinks(self) -> tuple[str, ...]:
        """The arrays that clients send beside their update, for the guard to expect."""
        return self.tasks.uplinks

    def finish(self, labels: Iterable[str]) -> None:
        """These tasks are as good as they have to be: their requests go to the others."""
        for label in self.tasks.finish(labels):
            self.requests.finish(label)
            self.unneeded += len(self.held[label])
            self.held[label].clear()
            self.difficulties.forget(label)

    def run_rounds(
        self,
        grid: Grid,
        arrays: ArrayRecord,
        *,
        first: int = 1,
        last: int,
        timeout: float | None = None,
        received: Callable[[int], None] = lambda number: None,
        train_config: ConfigRecord | None = None,
    ) -> Iterator[Round]:
        """Server updates `first` to `last`, of one task each; ends early when all tasks are finished.

        Args:
            timeout: (virtual) seconds after which a client is no longer waited for, and replaced.
            received: called with the number when the clients' updates are in, before anything is made of
                them.
        """
        clocked = clock_of(grid)
        if isinstance(grid, WrappedGrid):
            grid.expect(self.trips.messages(self._arrived))
        number, models = first, Models(arrays, self.tasks.labels)
        while number <= last and self.tasks.unfinished:
            self._call_off(clocked)
            if not self._arrived and not self._hopeless():
                self._recruit(grid, clocked, models, number, train_config)
                self._arrived.extend(self._pulled(grid, clocked, timeout))
                continue
            label = self._take(self._arrived.popleft(), number) if self._arrived else None  # all too late
            if label is None and not self._hopeless():
                continue
            if label is not None and len(self.held[label]) < self.requests.buffer(label):
                continue
            received(number)
            made = None if label is None else self._combined(models, label, number)
            if label is None:
                self.why_skipped = in_vain(self._fruitless)
                self._fruitless.clear()
            yield Round(number, models.arrays, made is not None, made, None)
            number += 1

    def _call_off(self, clocked: Clocked) -> None:
        """Nobody waits for what was asked for tasks that are finished."""
        unneeded = (
            []
            if not self.tasks.finished
            else [message_id for message_id, trip in self.trips.items() if _task(trip) in self.tasks.finished]
        )
        if unneeded:
            clocked.cancel(unneeded)
            self.unneeded += len(unneeded)
            for message_id in unneeded:
                self.trips.end(message_id)

    def _recruit(
        self, grid: Grid, clocked: Clocked, models: Models, number: int, config: ConfigRecord | None
    ) -> None:
        """Start what may start: each request at a client that is drawn from all."""
        nodes = grid.get_node_ids()
        ids = nodes if isinstance(nodes, range) else sorted(nodes)
        self._population = len(ids)
        if not ids:
            raise FedlabError("the Grid has no node to train on; start some, or raise clients.count")
        there = getattr(grid, "available", None)
        again: Counter[int] = Counter()
        messages: list[Message] = []
        sent: list[State] = []
        for label in self.requests.startable(Counter(_task(trip) for _, trip in self.trips.items())):
            told = models.instructions(label, self.tasks[label].learner, config, number)
            for node in self.recruiting(ids, 1, _nobody, 0, there):
                repeat = self.trips.repeats(node, number) + again[node]
                messages.append(told.message(node, repeat=repeat))
                sent.append(models[label])
                again[node] += 1
        state_of = dict(zip(map(id, messages), sent, strict=True))
        for message_id, message in numbered(grid.push_messages(messages), messages):
            node, state = message.metadata.dst_node_id, state_of[id(message)]
            repeat = self.trips.repeats(node, number)
            self.trips.start(message_id, Trip(node, number, clocked.now, message, state, repeat=repeat))
        if not len(self.trips):
            raise FedlabError(
                "no request could be sent, or all samplers' clients are away; try another sampler"
            )

    def _pulled(self, grid: Grid, clocked: Clocked, timeout: float | None) -> list[Message]:
        """What arrives next; whoever is waited for in vain is no longer waited for."""
        replies, late = self.trips.pulled(grid, clocked, timeout)
        for message_id in late:
            self._end(message_id)
            self._fruitless["late"] += 1
        return replies

    def _end(self, message_id: str) -> Trip | None:
        trip = self.trips.end(message_id)
        if trip is not None and _task(trip) not in self.tasks.finished:
            self.requests.ended(_task(trip))
        return trip

    def _take(self, reply: Message, number: int) -> str | None:
        """Put what arrived into its task's buffer, if it is any good; the task."""
        trip = self._end(reply.metadata.reply_to_message_id)
        if trip is None:
            return None
        label = _task(trip)
        if label in self.tasks.finished:
            self.unneeded += 1
            return None
        if reply.has_error():
            self._fruitless["failed"] += 1
            return None
        self._fruitless.clear()
        versions = self.versions[label]
        self.staleness[label][len(versions) - bisect_left(versions, trip.round)] += 1
        self.held[label].append((trip, reply))
        self.requests.counted()
        if self.power is not None:
            self._measure(label, trip, reply)
        return label

    def _measure(self, label: str, trip: Trip, reply: Message) -> None:
        """Remember an update, and share out the requests anew when it is time."""
        after = tensors(only(ArrayRecord, reply, "arrays"))
        self.difficulties.add(label, trip.model, after)
        if not self.requests.settled and self.power is not None:
            found = self.difficulties.of(self.tasks.unfinished)
            if found is not None:
                self.requests.share_out({one: value**self.power for one, value in found.items()})

    def _hopeless(self) -> bool:
        return self._fruitless.total() >= PATIENCE * self.requests.total

    def _combined(self, models: Models, label: str, number: int) -> MetricRecord | None:
        """Make a task's next model out of its buffer, which is then empty."""
        arrivals = [
            Arrival(reply, trip.model, round=trip.round, repeat=trip.repeat)
            for trip, reply in self.held[label]
        ]
        self.held[label].clear()
        learner = self.tasks[label].learner
        made = learner.combine(arrivals, models[label], number, self._population)
        self.why_skipped = learner.why_skipped
        if made is None:
            return None
        models.replace({label: made[0]})
        self.versions[label].append(number)
        return made[1]

    def facts(self) -> dict[str, Any]:
        """What a report says about how it went, over all tasks and for each."""
        seen = sum(self.staleness.values(), Counter[int]())
        return {
            "name": self.kind,
            "concurrency": self.requests.total,
            "buffer": max(
                buffer_of(due, self.requests.quantum) for due in self.requests.history[0][1].values()
            ),
            "quantum": self.requests.quantum,
            "weight": "constant",
            "division": "count",
            "max_staleness": None,
            **_stale(seen),
            "discarded": 0,
            "unneeded": self.unneeded,
            "left_in_buffer": sum(map(len, self.held.values())),
            "under_way": len(self.trips),
            "ended": "",
            "allocation": "static" if self.power is None else f"dynamic (power {self.power:g})",
            "allocations": [[updates, list(due.items())] for updates, due in self.requests.history],
            "tasks": [
                {"label": label, "models": len(self.versions[label]), **_stale(self.staleness[label])}
                for label in self.tasks.labels
            ],
        }

    def snapshot(self) -> Snapshot:
        """What the learners remember, who is under way with which model, and what the buffers hold."""
        writer = Writer()
        whole = Snapshot.of({"tasks": self.tasks.snapshot(), "requests": self.requests.snapshot()})
        whole.values |= {
            "kind": self.kind,
            "trips": self.trips.written(writer),
            "held": [
                [[trip.written(writer), writer.message(reply)] for trip, reply in held]
                for held in self.held.values()
            ],
            "versions": list(self.versions.values()),
            "staleness": [sorted(one.items()) for one in self.staleness.values()],
            "unneeded": self.unneeded,
            "arrived": [writer.message(reply) for reply in self._arrived],
            "draws": self.recruiting.draws,
            "fruitless": list(self._fruitless.items()),
            "population": self._population,
        }
        whole.put("records", writer.snapshot())
        whole.put("difficulties", self.difficulties.snapshot())
        return whole

    def restore(self, snapshot: Snapshot) -> None:
        """Remember it again.

        Raises:
            DataError: the state of another algorithm.
        """
        values = snapshot.values
        if values.get("kind") != self.kind:
            raise DataError(f"the checkpoint comes from another algorithm than {self.kind}; start a new run")
        self.tasks.restore(snapshot.get("tasks"))
        self.requests.restore(snapshot.get("requests"))
        self.difficulties.restore(snapshot.get("difficulties"))
        reader = Reader(snapshot.get("records"))
        carried: dict[int, State] = {}
        self.trips.read(values["trips"], reader, carried)
        for task, label in enumerate(self.tasks.labels):
            self.held[label] = [
                (Trip.read(trip, reader, carried), reader.message(reply))
                for trip, reply in values["held"][task]
            ]
            self.versions[label] = list(values["versions"][task])
            self.staleness[label] = Counter(dict(values["staleness"][task]))
        self.unneeded = values["unneeded"]
        self._arrived = deque(reader.message(reply) for reply in values["arrived"])
        self.recruiting.draws = values["draws"]
        self._fruitless, self._population = Counter(dict(values["fruitless"])), values["population"]


def _task(trip: Trip) -> str:
    return task_of(trip.message)


def _nobody(node: int) -> bool:
    """Whether a client cannot be asked: each can, however much it has to do."""
    return False


def _stale(seen: Counter[int]) -> dict[str, Any]:
    uploads = seen.total()
    mean = sum(late * count for late, count in seen.items()) / uploads if uploads else None
    return {"staleness": [list(one) for one in sorted(seen.items())], "mean_staleness": mean}
