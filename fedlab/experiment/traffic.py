"""Who was asked to train, who answered, how long it took, and what travelled.

Stands next to the devices, beneath adversaries, guard and tap: those hand a round on as a whole, and
only here does each reply pass at its own time. What becomes of a reply further up (turned away, not
needed any more) is told by `unused`.

Only messages that ask for training count. "Received" and "sent" are what devices receive and send, as
everywhere in fedlab; a trip that is called off has been received, and sends nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedlab.experiment.standing import TENTHS, Standing
from fedlab.runtime import client_of
from fedlab.runtime.devices import Fleet
from fedlab.runtime.storage import size
from fedlab.runtime.wrapped import WrappedGrid, gather
from fedlab.snapshot import Snapshot

MOST_KEPT, LEAST_KEPT = 4000, 400
"""Trips that are kept one by one, from the start of the run."""
WAVES = 8
"""Of them, so many times those that were sent before the first came back, if that lies between."""
COUNTED, FAILED, ABORTED, REJECTED, UNDER_WAY = "counted", "failed", "aborted", "rejected", "under way"
"""What became of a trip. Aborted: nobody waited for it any more."""


@dataclass(slots=True, eq=False)
class _Trip:
    """A message under way: when it was sent, when its device turned to it, and its place among those kept."""

    device: int
    sent: float
    begun: float
    round: int
    kept: int | None


class Traffic(WrappedGrid):
    """Passes everything on, and counts.

    Args:
        grid: where the devices are.
        fleet: what they are; None on a deployed Grid, where a second is a second.
        seed: the fleet's.
    """

    def __init__(self, grid: Grid, fleet: Fleet | None, seed: int) -> None:
        super().__init__(grid)
        self.standing = Standing(fleet, seed)
        self.downloads, self.uploads, self.aborted = 0, 0, 0
        self.received, self.sent = 0, 0
        self._classes: dict[str, _Class] = {}
        self._tenths = [0] * TENTHS
        self._open: dict[str, _Trip] = {}
        self._queues: dict[int, list[_Trip]] = {}
        self._kept: list[list[Any]] = []
        self._room: int | None = None  # how many are kept: known when the first is back
        self._fresh: dict[int, int | None] = {}  # devices whose reply to the latest round has come
        self._round = 0
        self._weighed: deque[tuple[ArrayRecord, int]] = deque(maxlen=4)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        return gather(self, self.push_messages(messages), timeout=timeout, enough=enough)

    def cancel(self, message_ids: Iterable[str]) -> None:
        forgotten = list(message_ids)
        super().cancel(forgotten)
        for message_id in forgotten:
            trip = self._open.pop(message_id, None)
            if trip is not None:
                self.aborted += 1
                self._ended(trip, ABORTED)

    def expect(self, messages: Mapping[str, Message]) -> None:
        """These were counted when they were sent."""
        if isinstance(self.grid, WrappedGrid):
            self.grid.expect(messages)

    def unused(self, devices: Iterable[int], outcome: str = REJECTED) -> None:
        """The replies of these devices that came last have reached the server, but are no part of a model."""
        for device in devices:
            if device in self._fresh:
                kept = self._fresh.pop(device)
                self._of(device).counted -= 1
                if kept is not None:
                    self._kept[kept][4] = outcome

    def _sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        now = self.now
        for message_id, message in zip(ids, messages, strict=True):
            if message.metadata.message_type.partition(".")[0] != "train":
                continue
            device, number = client_of(message.metadata.dst_node_id), _round(message)
            if number != self._round:
                self._round = number
                self._fresh.clear()
            kept = None
            if len(self._kept) < (MOST_KEPT if self._room is None else self._room):
                kept = len(self._kept)
                self._kept.append([device, now, None, number, UNDER_WAY])
            trip = _Trip(device, now, now, number, kept)
            self._open[message_id] = trip
            self._queue(trip)
            self.downloads += 1
            self.received += self._weight(message.content)
            self._of(device).asked += 1

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        passed = list(replies)
        for reply in passed:
            trip = self._open.pop(reply.metadata.reply_to_message_id, None)
            if trip is None:
                continue
            device, failed = trip.device, reply.has_error()
            if not failed:
                found, tenth = self._of(device), self.standing.of(device)[1]
                self.uploads += 1
                self.sent += size(reply.content) if reply.has_content() else 0
                found.uploads += 1
                found.counted += 1
                if tenth is not None:
                    self._tenths[tenth] += 1
                self._fresh[device] = trip.kept
            self._ended(trip, FAILED if failed else COUNTED)
        return passed

    def _ended(self, trip: _Trip, outcome: str) -> None:
        """The trip is over; its device turns to the next message, if it has one."""
        now = self.now
        queue = self._queues[trip.device]
        if queue[0] is trip:  # what waits behind another one keeps nobody busy
            self._of(trip.device).busy += now - trip.begun
            if len(queue) > 1:
                queue[1].begun = now
        queue.remove(trip)
        if not queue:
            del self._queues[trip.device]
        if self._room is None:
            self._room = min(max(WAVES * self.downloads, LEAST_KEPT), MOST_KEPT)
        if trip.kept is not None:
            self._kept[trip.kept][2], self._kept[trip.kept][4] = now, outcome

    def _queue(self, trip: _Trip) -> None:
        queue = self._queues.get(trip.device)
        if queue is None:
            self._queues[trip.device] = [trip]
        else:
            queue.append(trip)

    def _of(self, device: int) -> _Class:
        name = self.standing.of(device)[0]
        found = self._classes.get(name)
        if found is None:
            found = self._classes[name] = _Class()
        return found

    def _weight(self, content: RecordDict) -> int:
        """Bytes of a content; a model that goes to many is weighed once."""
        whole = 0
        for record in content.values():
            if not isinstance(record, ArrayRecord):
                continue
            weight = next((weight for known, weight in self._weighed if known is record), None)
            if weight is None:
                weight = size(RecordDict({"record": record}))
                self._weighed.appendleft((record, weight))
            whole += weight
        return whole

    def now_row(self) -> dict[str, Any]:
        """What was spent until now, for a row of evaluations: seconds, uploads, bytes."""
        return {
            "seconds": self.now,
            "uploads": self.uploads,
            "received": self.received,
            "sent": self.sent,
        }

    def summary(self) -> dict[str, Any]:
        """All that was counted, for metrics.json; `docs/report.md` has the keys."""
        now, standing = self.now, self.standing
        members = standing.members
        classes = {name: self._classes.get(name, _Class()) for name in [*members, *self._classes]}
        return {
            "clock": "real" if standing.fleet is None else "virtual",
            "seconds": now,
            "devices": None if standing.fleet is None else standing.fleet.count,
            "speeds": standing.speeds,
            "downloads": self.downloads,
            "uploads": self.uploads,
            "aborted": self.aborted,
            "received": self.received,
            "sent": self.sent,
            "classes": [
                {
                    "name": name,
                    "devices": round(members[name]) if name in members else None,
                    "asked": one.asked,
                    "uploads": one.uploads,
                    "counted": one.counted,
                    "busy_seconds": one.busy + self._busy_now(name, now),
                }
                for name, one in classes.items()
            ],
            "deciles": [
                count / devices for count, devices in zip(self._tenths, standing.sizes, strict=False)
            ],
            "window": self._window(now),
        }

    def _busy_now(self, name: str, now: float) -> float:
        """Seconds that devices of a class have worked on what is still under way."""
        firsts = (queue[0] for queue in self._queues.values())
        return sum(now - trip.begun for trip in firsts if self.standing.of(trip.device)[0] == name)

    def _window(self, now: float) -> dict[str, Any]:
        """The trips from the start of the run until no more were kept."""
        full = self._room is not None and len(self._kept) >= self._room
        end = self._kept[-1][1] if full else now
        took_part = sorted({one[0] for one in self._kept})
        return {
            "start": 0.0,
            "end": end,
            "trips": [list(one) for one in self._kept],
            "devices": [
                [device, self.standing.seconds(device)] for device in took_part if self.standing.fleet
            ],
        }

    def snapshot(self) -> Snapshot:
        """What it counts; the Grid beneath has a snapshot of its own."""
        totals = [self.downloads, self.uploads, self.aborted, self.received, self.sent]
        values: dict[str, Any] = {
            "totals": totals,
            "classes": [[name, *one.values()] for name, one in self._classes.items()],
            "tenths": list(self._tenths),
            "open": [[key, t.device, t.sent, t.begun, t.round, t.kept] for key, t in self._open.items()],
            "kept": [list(one) for one in self._kept],
            "room": self._room,
            "round": self._round,
            "fresh": [list(one) for one in self._fresh.items()],
        }
        return Snapshot(values=values)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken."""
        values = snapshot.values
        self.downloads, self.uploads, self.aborted, self.received, self.sent = values["totals"]
        self._classes = {name: _Class(*numbers) for name, *numbers in values["classes"]}
        self._tenths = list(values["tenths"])
        self._open = {key: _Trip(*rest) for key, *rest in values["open"]}
        self._queues = {}
        for trip in self._open.values():
            self._queue(trip)
        self._kept = [list(one) for one in values["kept"]]
        self._room, self._round = values["room"], values["round"]
        self._fresh = dict(values["fresh"])


@dataclass(slots=True)
class _Class:
    """What the devices of a class did."""

    asked: int = 0
    uploads: int = 0
    counted: int = 0
    busy: float = 0.0

    def values(self) -> list[float]:
        return [self.asked, self.uploads, self.counted, self.busy]


def _round(message: Message) -> int:
    """The round (version) that the message belongs to; 0 where it does not say."""
    config = message.content.get("config")
    number = config.get("server-round") if isinstance(config, ConfigRecord) else None
    return number if isinstance(number, int) else 0
