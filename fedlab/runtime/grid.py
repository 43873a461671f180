"""A Flower `Grid` that simulates its nodes: pushes start work, pulls return what has arrived.

Time is virtual: a pull moves the clock to the next awaited arrival, and nothing ever sleeps. Work is
executed when the first of its results is needed, all pending messages together, whatever version of
the model they carry, in chunks that depend on the order of the messages alone, never on workers or on
who finishes first.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Set

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedlab import seeds
from fedlab.errors import FedlabError, UsageError
from fedlab.runtime import storage
from fedlab.runtime._flower import (
    FIRST_NODE_ID,
    Run,
    enter_run,
    error_reply,
    lost_reply,
    message_of,
    new_context,
    number,
)
from fedlab.runtime.copies import own_records
from fedlab.runtime.devices import Errand, Fleet, UniformFleet
from fedlab.runtime.executors import Delivery, Executor, InlineExecutor
from fedlab.runtime.flights import Flight, Flights, Outlook
from fedlab.runtime.saved import flight_of, values_of
from fedlab.runtime.wrapped import gather
from fedlab.snapshot import Snapshot


class SimulationGrid(Grid):
    """Runs an unmodified Flower ClientApp on simulated devices.

    A client that remembers nothing costs nothing: its context is made anew for each message.

    Args:
        client_app: any Flower ClientApp; one with `run_cohort` gets whole chunks.
        devices: how many, or a `Fleet`.
        executor: where clients run; in this process by default.
        seed: of all that the fleet draws.
        chunk: messages per chunk.

    Attributes:
        now: virtual seconds since the start.
        idle: called when a pull finds nobody at work on what it waits for, before the clock moves on (or
            does not move: `Outlook.never`).
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
        if not isinstance(chunk, int) or chunk < 1:
            raise UsageError(f"chunk must be >= 1, got {chunk!r}")
        if not isinstance(devices, int) and not callable(getattr(devices, "visit", None)):
            raise UsageError(f"devices = {devices!r}; expected how many there are, or a Fleet")
        self.fleet: Fleet = UniformFleet(devices) if isinstance(devices, int) else devices
        self.executor: Executor = executor if executor is not None else InlineExecutor()
        self.seed, self.chunk = seed, chunk
        self.now = 0.0
        self.idle: Callable[[Outlook], None] = lambda outlook: None
        self._run = enter_run()
        self._sequence = 0
        self._flights = Flights()
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

    def available(self, node: int) -> bool:
        """Whether the node's device is there and free: a message would be started on at once."""
        return self.back_at(node) <= self.now

    def back_at(self, node: int) -> float:
        """Virtual second at which the node's device could start on a message; inf if it never could."""
        device = node - FIRST_NODE_ID
        free = max(self.now, self._flights.free_at(device))
        return self.fleet.visit(Errand(device, self._sequence + 1, free), self.seed).start

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

        What is sent is what stands in the messages now, whatever the server makes of its records
        before the work is executed. A device that is busy starts when it is free. `ttl` means nothing
        here: no wall clock runs.

        Raises:
            UsageError: a message to a node that does not exist, or without content; none is sent.
            FedlabError: no device of the fleet is ever there again, and nothing is under way that arrives.
        """
        outgoing, nodes = list(messages), self.get_node_ids()
        for message in outgoing:
            node = message.metadata.dst_node_id
            if node not in nodes:
                raise UsageError(f"no node {node}; expected {nodes[0]} to {nodes[-1]} (get_node_ids())")
            if not message.has_content():
                raise UsageError("a message without content cannot be sent; expected a RecordDict")
        # The messages of a round share one content: it is copied and weighed once.
        distinct = {id(message.content): message.content for message in outgoing}
        contents = {key: (own_records(content), storage.size(content)) for key, content in distinct.items()}
        ids = [self._send(message, *contents[id(message.content)]) for message in outgoing]
        if outgoing and self.now >= getattr(self.fleet, "online_until", math.inf):
            self._end_with_the_fleet()
        return ids

    def _end_with_the_fleet(self) -> None:
        """Give up once what was begun in time has arrived."""
        if any(flight.due < math.inf for flight in self._flights.open.values()):
            return
        raise FedlabError(
            f"no device is ever there again: the last one of the fleet left at virtual second"
            f" {self.fleet.online_until:g}, and it is {self.now:g}; let the trace of their availability begin"
            " again (its period), or end the run before (fewer rounds)"
        )

    def _send(self, message: Message, content: RecordDict, size: int) -> str:
        metadata = message.metadata
        device = metadata.dst_node_id - FIRST_NODE_ID
        self._finish(device)
        self._sequence += 1
        free = max(self.now, self._flights.free_at(device))
        kind = metadata.message_type.partition(".")[0]
        visit = self.fleet.visit(Errand(device, self._sequence, free, kind, size), self.seed)
        if not visit.start >= free:
            raise UsageError(
                f"the fleet lets device {device} start at {visit.start:g}; expected at least {free:g}:"
                " time never runs backwards"
            )
        flight = Flight(visit.start + visit.seconds, self._sequence, device, start=visit.start)
        number(message, flight.id)
        if visit.silent and flight.due < math.inf:
            reason = f"dropped out after {flight.due - self.now:g} virtual seconds"
            flight.reply = lost_reply(message, reason)
        else:
            flight.message = message_of(copy.copy(metadata), content)
        self._flights.add(flight)
        return flight.id

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that have arrived by the time at which the first awaited one does.

        Returns at least one reply, or none when none of the messages is under way, or all of them are
        on devices that are never there again (`outlook`). A reply is returned once.
        """
        return self.pull_until(message_ids, float("inf"))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        """Push, then pull until every reply is there, `enough` of them without error, or `timeout`
        virtual seconds have passed."""
        return gather(self, self.push_messages(messages), timeout=timeout, enough=enough)

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Tell devices to stop: what they are not done with by now leaves no trace, and they are free
        for the next message. Arrivals that are already fixed stay."""
        for message_id in message_ids:
            flight = self._flights.stop(message_id, self.now)
            if flight is not None:
                self._finish(flight.device)

    def pull_until(self, message_ids: Iterable[str], deadline: float) -> list[Message]:
        """As `pull_messages`, but at `deadline` (virtual seconds) at the latest."""
        wanted = message_ids if isinstance(message_ids, Set | Mapping) else set(message_ids)
        ready = self._flights.arriving(wanted, self.now, deadline)
        if not ready or ready[0].start > self.now:
            outlook = self._flights.outlook(wanted, self.now)
            if outlook.away and not outlook.working:
                self.idle(outlook)
        if not ready:
            if deadline < float("inf"):
                self.now = max(self.now, deadline)
            return []
        self.now = max(self.now, ready[0].due)
        while any(flight.reply is None for flight in ready):
            for flight in ready:
                self._finish(flight.device)
            self._execute()
        for flight in ready:
            self._flights.delivered(flight)
            self._finish(flight.device)
        return [flight.reply for flight in ready if flight.reply is not None]

    def outlook(self, message_ids: Iterable[str]) -> Outlook:
        """When what is awaited goes on: how many devices are at work, and when the next is back."""
        return self._flights.outlook(message_ids, self.now)

    def consult(self, messages: Iterable[Message]) -> list[Message]:
        """Replies to `messages`, in order, of clients as they are now, beside the simulation.

        No time passes, no device is slow, busy or silent, and clients remember nothing of it.
        """
        deliveries = []
        for index, message in enumerate(messages):
            device = message.metadata.dst_node_id - FIRST_NODE_ID
            self._finish(device)
            number(message, f"c{index}")
            kept = self._contexts.get(device)
            context = self._blank(device) if kept is None else kept
            deliveries.append(Delivery(message, context, seeds.derive(self.seed, "consulted", index)))
        chunks = [deliveries[i : i + self.chunk] for i in range(0, len(deliveries), self.chunk)]
        answers = self.executor.run(chunks)
        return [
            _checked(delivery.message, reply.message)
            for chunk, replies in zip(chunks, answers, strict=True)
            for delivery, reply in zip(chunk, replies, strict=True)
        ]

    def _execute(self) -> None:
        """Run whatever can start."""
        flights = self._flights.startable()
        groups = [flights[i : i + self.chunk] for i in range(0, len(flights), self.chunk)]
        chunks = [[self._delivery(flight) for flight in group] for group in groups]
        for chunk, group, replies in zip(chunks, groups, self.executor.run(chunks), strict=True):
            for delivery, flight, reply in zip(chunk, group, replies, strict=True):
                flight.reply = _checked(delivery.message, reply.message)
                number(flight.reply, f"r{flight.sequence}")
                if not flight.reply.has_error() and _changed(delivery.context, reply.context):
                    flight.context = reply.context
                flight.message = None
        self._flights.started(flights)

    def _delivery(self, flight: Flight) -> Delivery:
        if flight.message is None:
            raise RuntimeError(f"message {flight.id} was executed before")
        kept = self._contexts.get(flight.device)
        context = self._blank(flight.device) if kept is None else kept
        return Delivery(flight.message, context, seeds.derive(self.seed, "client", flight.sequence))

    def _finish(self, device: int) -> None:
        """Let the device's client remember what it has been through by now."""
        for flight in self._flights.finished(device, self.now):
            if flight.context is None:
                continue
            if flight.context == self._blank(device):
                self._contexts.pop(device, None)
            else:
                self._contexts[device] = flight.context
            flight.context = None

    def _blank(self, device: int) -> Context:
        return new_context(device + FIRST_NODE_ID, self.fleet.count)

    def snapshot(self) -> Snapshot:
        """Clock, numbering, what is under way, and the contexts of clients that remember something."""
        writer = storage.Writer()
        values = {
            "now": self.now,
            "sequence": self._sequence,
            "contexts": [[device, writer.context(kept)] for device, kept in sorted(self._contexts.items())],
            "flights": [
                {**values_of(flight, writer), "open": flight.id in self._flights.open}
                for flight in self._flights
            ],
        }
        found = Snapshot(values=values)
        found.put("records", writer.snapshot())
        return found

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken, by a Grid of the same app, fleet, seed and chunk."""
        reader = storage.Reader(snapshot.get("records"))
        values = snapshot.values
        self.now, self._sequence = float(values["now"]), int(values["sequence"])
        self._contexts = {device: reader.context(kept) for device, kept in values["contexts"]}
        self._flights = Flights()
        for one in values["flights"]:
            self._flights.add(flight_of(one, reader), open=one["open"])


def _changed(before: Context, after: Context) -> bool:
    """Whether there may be something to remember; what is remembered is not compared, it may be large."""
    return bool(before.state) or bool(after.state) or before != after


def _checked(message: Message, reply: object) -> Message:
    """The reply, or a failed one in its place if it is none to this message."""
    if not isinstance(reply, Message):
        return error_reply(message, f"the ClientApp returned a {type(reply).__name__}; expected a Message")
    answered, sent = reply.metadata, message.metadata
    if answered.reply_to_message_id != sent.message_id or answered.src_node_id != sent.dst_node_id:
        return error_reply(
            message,
            "the ClientApp returned a Message that answers another one; expected"
            " Message(content, reply_to=message)",
        )
    return reply
