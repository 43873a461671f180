"""Messages under way: by id, by arrival, and in the queue of the device that answers them.

A device answers one message after the other, and what a client remembers from one it knows when it
starts the next. So only the first unanswered message of a device can be executed; the next one follows
when the device is done with it, or is told to stop. That makes late execution invisible: whatever is
computed when, each client sees what it would have seen at its time.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from flwr.app import Context, Message

LAST = sys.float_info.max
"""The last moment of virtual time; what is due later never comes."""

_SLACK = 64
"""Entries of the heap that may be out of date before it is built anew."""


@dataclass(slots=True, eq=False)
class Flight:
    """One message on its way there and back.

    Attributes:
        due: when its reply arrives, in virtual seconds; inf if the device never starts.
        sequence: its number in the run; of flights due at the same time the first sent is first.
        device: who answers it.
        message: what was sent, until it is executed.
        reply: the answer, once it is known.
        context: what the client remembers afterwards; None where nothing changes.
        done: the device is through with it, or was told to stop.
        start: when the device starts.
        id: the message's.
    """

    due: float
    sequence: int
    device: int
    message: Message | None = None
    reply: Message | None = None
    context: Context | None = None
    done: bool = False
    start: float = 0.0
    id: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = f"m{self.sequence}"

    @property
    def place(self) -> tuple[float, int]:
        """Where it stands in the order of arrivals."""
        return self.due, self.sequence


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to be expected of messages under way; as text, a clause for people.

    Attributes:
        now: virtual seconds.
        working: messages whose devices have started on them.
        away: messages whose devices are away, or busy with other messages.
        back: virtual second at which the first of those starts; inf if none ever does.
    """

    now: float
    working: int
    away: int
    back: float

    @property
    def never(self) -> bool:
        """Whether nothing of it ever arrives, although something is under way."""
        return self.working == 0 and self.away > 0 and self.back == math.inf

    def __str__(self) -> str:
        if self.working:
            return f"{self.working} device{' is' if self.working == 1 else 's are'} at work"
        if not self.away:
            return "nothing is under way"
        if self.never:
            return (
                f"no device that is waited for is ever there again after virtual second {self.now:g}; let the"
                " trace of their availability begin again (its period), or end the run before (fewer rounds)"
            )
        return (
            f"no device that is waited for is there at virtual second {self.now:g};"
            f" the next is back at {self.back:g}"
        )


class Flights:
    """All messages under way; the clock is the Grid's.

    Attributes:
        open: those whose reply may still be pulled, by id.
    """

    def __init__(self) -> None:
        self.open: dict[str, Flight] = {}
        self._arrivals: list[tuple[float, int, str]] = []
        self._queues: dict[int, deque[Flight]] = {}
        self._startable: dict[int, Flight] = {}

    def __iter__(self) -> Iterator[Flight]:
        """In the order of sending; also those that nobody waits for, whose device is not done yet."""
        queued = (flight for queue in self._queues.values() for flight in queue if not flight.done)
        every = {flight.sequence: flight for flights in (queued, self.open.values()) for flight in flights}
        return iter([every[sequence] for sequence in sorted(every)])

    def free_at(self, device: int) -> float:
        """When the device will be done with all that it was sent; -inf if it is idle."""
        queue = self._queues.get(device)
        while queue and queue[-1].done:
            queue.pop()
        return queue[-1].due if queue else float("-inf")

    def add(self, flight: Flight, *, open: bool = True) -> None:
        """Put a flight under way; not `open` if nobody waits for its reply any more."""
        if open:
            self.open[flight.id] = flight
            heapq.heappush(self._arrivals, (*flight.place, flight.id))
        if not flight.done:
            queue = self._queues.setdefault(flight.device, deque())
            queue.append(flight)
            if queue[0] is flight:
                self._front(flight)

    def finished(self, device: int, now: float) -> list[Flight]:
        """Take from the device's queue, in order, what it has answered by `now`."""
        queue, answered = self._queues.get(device), []
        while queue and (queue[0].done or (queue[0].reply is not None and queue[0].due <= now)):
            first = queue.popleft()
            if not first.done:
                first.done = True
                answered.append(first)
            if queue:
                self._front(queue[0])
            else:
                del self._queues[device]
        return answered

    def _front(self, flight: Flight) -> None:
        if flight.reply is None and not flight.done and flight.due <= LAST:
            self._startable[flight.sequence] = flight

    def startable(self) -> list[Flight]:
        """What can be executed now, in the order of sending."""
        return [self._startable[sequence] for sequence in sorted(self._startable)]

    def started(self, flights: Iterable[Flight]) -> None:
        """These have been executed."""
        for flight in flights:
            del self._startable[flight.sequence]

    def arriving(self, message_ids: Iterable[str], now: float, deadline: float) -> list[Flight]:
        """In order, those of `message_ids` that have arrived when the first of them has, if that is by
        `deadline`.

        Looks at the next arrivals first and not at all that is awaited, so that waiting for n replies
        one by one takes n log n steps.
        """
        deadline = min(deadline, LAST)
        wanted = message_ids if isinstance(message_ids, Set | Mapping) else set(message_ids)
        if 2 * len(wanted) < len(self.open):
            found = sorted((self.open[i] for i in wanted if i in self.open), key=lambda flight: flight.place)
            if not found or found[0].due > deadline:
                return []
            horizon = min(deadline, max(now, found[0].due))
            return [flight for flight in found if flight.due <= horizon]
        ready: list[Flight] = []
        seen: list[tuple[float, int, str]] = []
        horizon = deadline
        while self._arrivals and self._arrivals[0][0] <= horizon:
            entry = heapq.heappop(self._arrivals)
            flight = self.open.get(entry[2])
            if flight is None:
                continue
            seen.append(entry)
            if entry[2] in wanted:
                if not ready:
                    horizon = min(deadline, max(now, flight.due))
                ready.append(flight)
        for entry in seen:
            heapq.heappush(self._arrivals, entry)
        return ready

    def outlook(self, message_ids: Iterable[str], now: float) -> Outlook:
        """When those of `message_ids` that are under way go on."""
        starts = [self.open[one].start for one in message_ids if one in self.open]
        away = [start for start in starts if start > now]
        return Outlook(now, len(starts) - len(away), len(away), min(away, default=math.inf))

    def delivered(self, flight: Flight) -> None:
        """The reply has been pulled."""
        del self.open[flight.id]
        self._tidy()

    def stop(self, message_id: str, now: float) -> Flight | None:
        """Nobody waits for this any more; a device that is not done by `now` leaves no trace of it."""
        flight = self.open.pop(message_id, None)
        if flight is not None and flight.due > now:
            flight.done = True
            self._startable.pop(flight.sequence, None)
        self._tidy()
        return flight

    def _tidy(self) -> None:
        if len(self._arrivals) > 2 * len(self.open) + _SLACK:
            self._arrivals = [(*flight.place, name) for name, flight in self.open.items()]
            heapq.heapify(self._arrivals)
