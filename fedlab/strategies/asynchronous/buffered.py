"""Buffered asynchronous training: K updates make a new model, whenever they come.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated Learning with Buffered Asynchronous
Aggregation", AISTATS 2022, https://arxiv.org/abs/2106.06639, algorithm 1; as run at scale in Huba et al.,
"Papaya: Practical, Private, and Scalable Federated Learning", MLSys 2022, https://arxiv.org/abs/2111.04877.
M clients train at any time (the concurrency). When one comes back its update, times a weight that falls
with its staleness, goes into the buffer; K updates make a step x ← x + γ Σ w(s_i) Δ_i / K, and whoever came
back is replaced by a client that starts from the model as it is then.

Deviations from algorithm 1: what arrives at the same moment is taken together, and all of it is replaced
afterwards, so that with K = M and devices that are equally quick each step is FedAvg's, bit for bit;
between Δ and step stand the scenario's aggregator and server optimizer.

Only Flower's push and pull are used, so it runs on a deployed Grid as it does on a simulated one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedlab.errors import DataError, FedlabError, UsageError
from fedlab.runtime.arrays import tensors
from fedlab.runtime.storage import Reader, Writer
from fedlab.runtime.wrapped import Clocked, WrappedGrid, clock_of, numbered
from fedlab.snapshot import Snapshot
from fedlab.strategies.aggregators import called, mean, minimum
from fedlab.strategies.asynchronous.expectation import cautions
from fedlab.strategies.asynchronous.recruiting import Recruiting
from fedlab.strategies.asynchronous.staleness import Staleness, weighed
from fedlab.strategies.asynchronous.trips import Trip, Trips
from fedlab.strategies.learner import Arrival, Learner
from fedlab.strategies.messages import Instructions, OutOfStep
from fedlab.strategies.replies import in_vain
from fedlab.strategies.rounds import Round
from fedlab.strategies.unrounded import Unrounded
from fedlab.tasks import State

Division = Literal["count", "weights"]

ANCIENT = 10_000
"""Updates that are staler than that are not known to occur."""
PATIENCE = 4
"""A step is given up when this many times (M + K) replies in a row brought nothing."""


@dataclass(frozen=True)
class Held:
    """An update in the buffer; scale and weight as in `Arrival`."""

    trip: Trip
    reply: Message
    scale: float = 1.0
    weight: float = 1.0


class Buffered(Unrounded):
    """An asynchronous federated algorithm; a kind of it overrides `judged`, `room` or `token`.

    Args:
        learner: what becomes of the updates.
        recruiting: whom the server asks.
        buffer: K, updates that make a new model.
        concurrency: M, clients that train at any time.
        staleness: what an update counts that started from an older model.
        max_staleness: an update that is staler is thrown away.
        division: by what the sum of weighted updates is divided: their `"count"`, as in the paper, so that
            stale updates make smaller steps; or the sum of their `"weights"`.
        max_participations: how often a client is asked at most.
        measured_from: whether an update is measured from the model that its client started from, or from the
            one that the server has `"now"`, as in FedAsync.

    Attributes:
        why_skipped: why the last step left the model as it was; empty if it did not.
        ended: why there will be no further step; empty as long as there may be.
        thrown: called with the node whose update was thrown away.

    Raises:
        UsageError: a number out of range.
    """

    kind: ClassVar[str] = "fedbuff"

    def __init__(
        self,
        learner: Learner,
        recruiting: Recruiting,
        *,
        buffer: int,
        concurrency: int,
        staleness: Staleness,
        max_staleness: int | None = None,
        division: Division = "count",
        max_participations: int | None = None,
        measured_from: Literal["start", "now"] = "start",
    ) -> None:
        for name, number in (("cohort", buffer), ("concurrency", concurrency)):
            if number < 1:
                raise UsageError(f"{name} = {number}; expected at least 1")
        if max_staleness is not None and max_staleness < 0:
            raise UsageError(f"max_staleness = {max_staleness}; expected at least 0")
        if max_participations is not None and max_participations < 1:
            raise UsageError(f"max_participations = {max_participations}; expected at least 1")
        if division not in ("count", "weights"):
            raise UsageError(f'division = {division!r}; expected "count" or "weights"')
        if buffer < minimum(learner.aggregator):
            raise UsageError(
                f"the aggregator needs {minimum(learner.aggregator)} updates, but the buffer holds {buffer};"
                " raise strategy.cohort"
            )
        alike = getattr(learner.aggregator, "function", None) is mean
        if division == "weights" and getattr(learner.aggregator, "counts_alike", alike):
            raise UsageError(
                f'division = "weights" means nothing to the aggregator "{called(learner.aggregator)}", which'
                ' counts all updates alike; take "weighted-mean", or division = "count"'
            )
        server = learner.server
        last = ANCIENT if max_staleness is None else min(max_staleness, ANCIENT)
        if (server.in_step and not server.uplinks) and any(
            weighed(staleness, late) < 1.0 for late in (0, min(1, last), last)
        ):
            raise UsageError(
                f"the local rule's server ({server.name}) adds up what the clients' own memories add up, so"
                ' no update may count less than another; choose staleness = "constant"'
            )
        self.learner, self.recruiting, self.staleness = learner, recruiting, staleness
        self.buffer, self.concurrency, self.max_staleness = buffer, concurrency, max_staleness
        self.division, self.measured_from = division, measured_from
        self.max_participations = max_participations
        self.why_skipped, self.ended = "", ""
        self.trips = Trips()
        self.held: list[Held] = []
        self.staleness_seen: Counter[int] = Counter()
        self.discarded = 0
        self.thrown: Callable[[int], None] = lambda node: None
        self._arrived: deque[Message] = deque()
        self._fruitless: Counter[str] = Counter()
        self._out_of_step = OutOfStep(learner.server.in_step)
        self._population = 0
        self._instructions: tuple[ArrayRecord, Instructions] | None = None

    @property
    def uplinks(self) -> tuple[str, ...]:
        """The arrays that clients send beside their update, for the guard to expect."""
        return self.learner.uplinks

    def judged(self, trip: Trip, reply: Message, round: int) -> Held | None:
        """What becomes of an update that arrives while `round` is worked for; None throws it away."""
        late = round - trip.round
        self.staleness_seen[late] += 1
        weight = weighed(self.staleness, late)
        if (self.max_staleness is not None and late > self.max_staleness) or (
            self.division == "weights" and weight == 0.0
        ):
            return None
        return Held(trip, reply, weight) if self.division == "count" else Held(trip, reply, 1.0, weight)

    def room(self, round: int) -> int:
        """How many clients may start now."""
        return self.concurrency - len(self.trips)

    def token(self, round: int) -> int:
        """What a client's trip is marked with that starts now, for `judged`."""
        return 0

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
        """Server updates `first` to `last`, each as soon as it is made, starting from the model `arrays`.

        Ends early when every client has been asked `max_participations` times (`ended` then says so).

        Args:
            timeout: (virtual) seconds after which a client is no longer waited for, and replaced.
            received: called with the number when the clients' updates are in, before anything is made of
                them.
        """
        clocked = clock_of(grid)
        if isinstance(grid, WrappedGrid):
            grid.expect(self.trips.messages(self._arrived))
        number, model = first, tensors(arrays)
        while number <= last:
            if not self._arrived and not self._hopeless():
                self._recruit(grid, clocked, arrays, model, number, train_config)
                if not len(self.trips):
                    return
                self._arrived.extend(self._pulled(grid, clocked, timeout))
                continue
            if self._arrived:  # where all come too late, nothing ever does
                self._take(self._arrived.popleft(), number)
            if len(self.held) < self.buffer and not self._hopeless():
                continue
            received(number)
            made = self._combine(model, number)
            if made is not None:
                arrays, model = made[0], tensors(made[0])
            yield Round(number, arrays, made is not None, None if made is None else made[1], None)
            number += 1

    def _recruit(
        self,
        grid: Grid,
        clocked: Clocked,
        arrays: ArrayRecord,
        model: State,
        number: int,
        config: ConfigRecord | None,
    ) -> None:
        """Start as many clients as there is room for."""
        size = self.room(number)
        if size < 1:
            return
        nodes = grid.get_node_ids()
        ids = nodes if isinstance(nodes, range) else sorted(nodes)
        self._population = len(ids)
        if not ids and not len(self.trips):
            raise FedlabError("the Grid has no node to train on; start some, or raise clients.count")
        busy, taken, most = self.trips.busy, self.trips.taken, self.max_participations
        if most is None:
            chosen = self.recruiting(
                ids, size, busy.__contains__, len(busy), getattr(grid, "available", None)
            )
        else:

            def out(node: int) -> bool:
                return node in busy or taken[node] >= most

            chosen = self.recruiting(ids, size, out, len(taken), getattr(grid, "available", None))
        if not chosen and not len(self.trips):
            if most is None:
                raise FedlabError(
                    "the sampler drew nobody while nobody trains: there would never be an update"
                )
            self.ended = f"every client was asked {most} times (max_participations)"
            return
        if (
            self._instructions is None
            or self._instructions[0] is not arrays
            or self._instructions[1].round != number
        ):
            records = self.learner.records(arrays, model)
            self._instructions = arrays, Instructions(records, config or ConfigRecord(), number)
        instructions = self._instructions[1]
        messages = []
        for node in chosen:
            lost, repeat = self._out_of_step.since(node), self.trips.repeats(node, number)
            messages.append(instructions.message(node, lost_since=lost, repeat=repeat))
            self._out_of_step.asked(node, number, repeat)
        for message_id, message in numbered(grid.push_messages(messages), messages):
            node, now = message.metadata.dst_node_id, clocked.now
            repeat, token = self.trips.repeats(node, number), self.token(number)
            self.trips.start(message_id, Trip(node, number, now, message, model, token, repeat))
        if not len(self.trips):
            raise FedlabError(
                f"none of {len(messages)} messages could be sent; the SuperLink's log may tell why (a model"
                " that is too large, say)"
            )

    def _pulled(self, grid: Grid, clocked: Clocked, timeout: float | None) -> list[Message]:
        """What arrives next; whoever is waited for in vain is no longer waited for."""
        replies, late = self.trips.pulled(grid, clocked, timeout)
        for message_id in late:
            self.trips.end(message_id)
            self._fruitless["late"] += 1
        return replies

    def _take(self, reply: Message, number: int) -> None:
        """Put what arrived into the buffer, if it is any good."""
        trip = self.trips.end(reply.metadata.reply_to_message_id)
        if trip is None:
            return
        if reply.has_error():
            self._fruitless["failed"] += 1
            return
        held = self.judged(trip, reply, number)
        if held is None:
            self.discarded += 1
            self._fruitless["too stale"] += 1
            self.thrown(trip.node)
            return
        self._fruitless.clear()
        self._out_of_step.counted([trip.node])
        self.held.append(held)

    def _hopeless(self) -> bool:
        return self._fruitless.total() >= PATIENCE * (self.concurrency + self.buffer)

    def _combine(self, model: State, number: int) -> tuple[ArrayRecord, MetricRecord] | None:
        """The next model out of the buffer, which is then empty."""
        self.why_skipped = ""
        if len(self.held) < self.buffer:
            self.why_skipped = in_vain(self._fruitless)
            self._fruitless.clear()
            return None
        arrivals = [
            Arrival(
                one.reply,
                model if self.measured_from == "now" else one.trip.model,
                one.scale,
                one.weight,
                round=one.trip.round,
                repeat=one.trip.repeat,
            )
            for one in self.held
        ]
        self.held = []
        made = self.learner.combine(arrivals, model, number, self._population)
        if made is None:
            self.why_skipped = self.learner.why_skipped
            for arrival in arrivals:
                self._out_of_step.asked(arrival.node, arrival.round or number, arrival.repeat)
        return made

    def cautions(self, seconds: Sequence[float]) -> list[str]:
        """What to know before it starts, given how long trips of devices drawn at random take."""
        return cautions(seconds, self.concurrency, self.buffer, self.max_staleness)

    def facts(self) -> dict[str, Any]:
        """What a report says about how it went: whose updates came how late, and what became of them."""
        seen = sorted(self.staleness_seen.items())
        uploads = sum(count for _, count in seen)
        return {
            "name": self.kind,
            "concurrency": self.concurrency,
            "buffer": self.buffer,
            "weight": str(self.staleness),
            "division": self.division,
            "max_staleness": self.max_staleness,
            "staleness": [list(one) for one in seen],
            "mean_staleness": sum(late * count for late, count in seen) / uploads if uploads else None,
            "discarded": self.discarded,
            "left_in_buffer": len(self.held) + sum(not reply.has_error() for reply in self._arrived),
            "under_way": len(self.trips) - len(self._arrived),
            "ended": self.ended,
        }

    def snapshot(self) -> Snapshot:
        """What the learner remembers, who is under way with which model, and what the buffer holds."""
        writer = Writer()
        whole = Snapshot.of({"learner": self.learner.snapshot()})
        whole.values |= {
            "kind": self.kind,
            "trips": self.trips.written(writer),
            "held": [
                [one.trip.written(writer), writer.message(one.reply), one.scale, one.weight]
                for one in self.held
            ],
            "arrived": [writer.message(reply) for reply in self._arrived],
            "draws": self.recruiting.draws,
            "staleness": sorted(self.staleness_seen.items()),
            "discarded": self.discarded,
            "fruitless": list(self._fruitless.items()),
            "lost": self._out_of_step.values(),
            "population": self._population,
            "ended": self.ended,
        }
        whole.put("records", writer.snapshot())
        return whole

    def restore(self, snapshot: Snapshot) -> None:
        """Remember it again.

        Raises:
            DataError: the state of another algorithm.
        """
        values = snapshot.values
        if values.get("kind") != self.kind:
            raise DataError(f"the checkpoint comes from another algorithm than {self.kind}; start a new run")
        self.learner.restore(snapshot.get("learner"))
        reader = Reader(snapshot.get("records"))
        models: dict[int, State] = {}
        self.trips.read(values["trips"], reader, models)
        self.held = [
            Held(Trip.read(trip, reader, models), reader.message(reply), scale, weight)
            for trip, reply, scale, weight in values["held"]
        ]
        self._arrived = deque(reader.message(reply) for reply in values["arrived"])
        self.recruiting.draws = values["draws"]
        self.staleness_seen = Counter(dict(values["staleness"]))
        self.discarded, self._fruitless = values["discarded"], Counter(dict(values["fruitless"]))
        self._out_of_step.restore(values["lost"])
        self._population, self.ended = values["population"], values["ended"]
        self._instructions = None
