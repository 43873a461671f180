"""A Flower `Grid` that simulates its nodes: pushes start work, pulls return what has arrived.

Time is virtual: a pull moves the clock to the next awaited arrival, and nothing ever sleeps. Work is
executed when the first of its results is needed, all pending messages together, in chunks that
depend on the order of the messages alone, never on workers or on who finishes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedlab.errors import UsageError
from fedlab.runtime._flower import FIRST_NODE_ID, Run, enter_run, new_context, number
from fedlab.runtime.executors import Delivery, Executor, InlineExecutor
from fedlab.runtime.wrapped import gather


class Fleet(Protocol):
    """The simulated devices."""

    @property
    def count(self) -> int:
        """How many devices there are."""

    def duration(self, device: int, message: int) -> float:
        """Virtual seconds (>= 0) that `device` takes to answer the `message`-th message of the run."""


@dataclass(frozen=True)
class UniformFleet:
    """`count` devices that all take the same time."""

    count: int
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"a fleet needs at least one device, got {self.count}")
        if not 0.0 <= self.seconds < float("inf"):
            raise UsageError(f"a duration must be finite and >= 0 virtual seconds, got {self.seconds}")

    def duration(self, device: int, message: int) -> float:
        return self.seconds


@dataclass(order=True)
class _Flight:
    """A message under way; ordered by arrival, then by sequence."""

    due: float
    sequence: int
    message_id: str
    message: Message
    reply: Message | None = None


class SimulationGrid(Grid):
    """Runs an unmodified Flower ClientApp on simulated devices.

    Args:
        client_app: any Flower ClientApp; one with `run_cohort` gets whole chunks.
        devices: how many, or a `Fleet`.
        executor: where clients run; in this process by default.
        chunk: messages per chunk.

    Attributes:
        now: virtual seconds since the start.
    """

    def __init__(
        self,
        client_app: ClientApp,
        devices: int | Fleet,
        executor: Executor | None = None,
        *,
        seed: int = 0,
        chunk: int = 16,
    ) -> None:
        if chunk < 1:
            raise UsageError(f"chunk must be >= 1, got {chunk}")
        self.fleet: Fleet = UniformFleet(devices) if isinstance(devices, int) else devices
        self.executor: Executor = executor if executor is not None else InlineExecutor()
        self.seed, self.chunk = seed, chunk
        self.now = 0.0
        self._run = enter_run()
        self._sequence = 0
        self._open: dict[str, _Flight] = {}
        self._idle: list[_Flight] = []
        self._contexts: dict[int, Context] = {}
        self.executor.load(client_app)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def get_node_ids(self) -> range:
        """Node ids, stable from run to run; a range, however many devices there are."""
        return range(FIRST_NODE_ID, FIRST_NODE_ID + self.fleet.count)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send; returns the messages' ids in order.

        Raises:
            UsageError: a message to a node that does not exist.
        """
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node not in self.get_node_ids():
                nodes = self.get_node_ids()
                raise UsageError(f"no node {node}; expected {nodes[0]} to {nodes[-1]} (get_node_ids())")
            self._sequence += 1
            message_id = f"m{self._sequence}"
            number(message, message_id)
            duration = self.fleet.duration(node - FIRST_NODE_ID, self._sequence)
            flight = _Flight(self.now + duration, self._sequence, message_id, message)
            self._open[message_id] = flight
            self._idle.append(flight)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that have arrived by the time at which the first awaited one does.

        Returns at least one reply, or (when none of the messages is under way) none.
        """
        return self.pull_until(message_ids, float("inf"))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        """Push, then pull until every reply is there, `enough` of them without error, or `timeout`
        virtual seconds have passed."""
        return gather(self, self.push_messages(messages), timeout=timeout, enough=enough)

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Tell devices to stop: work that was not executed yet never is."""
        for message_id in message_ids:
            self._open.pop(message_id, None)
        self._idle = [flight for flight in self._idle if flight.message_id in self._open]

    def pull_until(self, message_ids: Iterable[str], deadline: float) -> list[Message]:
        """As `pull_messages`, but at `deadline` (virtual seconds) at the latest."""
        awaited = [self._open[i] for i in message_ids if i in self._open]
        if not awaited:
            return []
        first = min(awaited)
        if first.due > deadline:
            self.now = max(self.now, deadline)
            return []
        self.now = max(self.now, first.due)
        ready = sorted(flight for flight in awaited if flight.due <= self.now)
        if any(flight.reply is None for flight in ready):
            self._execute()
        for flight in ready:
            del self._open[flight.message_id]
        return [flight.reply for flight in ready if flight.reply is not None]

    def _execute(self) -> None:
        """Run all pending work; a client that has two messages gets them one after the other."""
        while self._idle:
            wave: dict[int, _Flight] = {}
            rest = []
            for flight in self._idle:
                node = flight.message.metadata.dst_node_id
                if node in wave:
                    rest.append(flight)
                else:
                    wave[node] = flight
            self._idle = rest
            self._run_wave(list(wave.values()))

    def _run_wave(self, flights: Sequence[_Flight]) -> None:
        groups = [flights[i : i + self.chunk] for i in range(0, len(flights), self.chunk)]
        chunks = [[self._delivery(flight) for flight in group] for group in groups]
        for group, replies in zip(groups, self.executor.run(chunks), strict=True):
            for flight, reply in zip(group, replies, strict=True):
                flight.reply = reply.message
                self._contexts[flight.message.metadata.dst_node_id] = reply.context

    def _delivery(self, flight: _Flight) -> Delivery:
        node = flight.message.metadata.dst_node_id
        if node not in self._contexts:
            self._contexts[node] = new_context(node, self.fleet.count)
        return Delivery(flight.message, self._contexts[node])
