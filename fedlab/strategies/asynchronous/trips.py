"""Who is training: messages under way, and what was sent to whom of the present model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import ItemsView, Iterable, KeysView, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from fedlab.errors import FedlabError
from fedlab.runtime.arrays import tensors
from fedlab.runtime.storage import Reader, Writer
from fedlab.runtime.wrapped import Clocked
from fedlab.strategies.replies import only
from fedlab.tasks import State


@dataclass(frozen=True)
class Trip:
    """A message to a client, and back.

    Attributes:
        round: the server update that was being worked for when it started; its model is that of `round` - 1.
        since: when it started, in (virtual) seconds.
        token: what the schedule wants to know of it when it is back (`gba`).
        model: what the message carries; the same object for trips that carry the same record.
        repeat: how often the client was sent the same model before.
    """

    node: int
    round: int
    since: float
    message: Message
    model: State
    token: int = 0
    repeat: int = 0

    def written(self, writer: Writer) -> list[Any]:
        """For a checkpoint."""
        return [self.node, self.round, self.since, writer.message(self.message), self.token, self.repeat]

    @classmethod
    def read(cls, values: Sequence[Any], reader: Reader, models: dict[int, State]) -> Trip:
        """What `written` gave; `models` are those that were read before, by the id of their record."""
        node, round, since, written, token, repeat = values
        message = reader.message(written)
        record = only(ArrayRecord, message, "arrays")
        model = models.setdefault(id(record), tensors(record))
        return cls(node, round, since, message, model, token, repeat)


class Trips:
    """All messages under way, by id, in the order of sending.

    Attributes:
        busy: how many messages each node has under way.
        taken: how often each node was asked, over the whole run.
    """

    def __init__(self) -> None:
        self.busy: Counter[int] = Counter()
        self.taken: Counter[int] = Counter()
        self._open: dict[str, Trip] = {}
        self._sent: Counter[int] = Counter()
        self._round = 0

    def __len__(self) -> int:
        return len(self._open)

    def ids(self) -> KeysView[str]:
        """Of all messages under way."""
        return self._open.keys()

    def items(self) -> ItemsView[str, Trip]:
        """(id, trip) of each."""
        return self._open.items()

    def messages(self, arrived: Iterable[Message] = ()) -> dict[str, Message]:
        """By id, the messages that have no answer; some have arrived already that nobody looked at yet."""
        answered = {reply.metadata.reply_to_message_id for reply in arrived}
        return {key: trip.message for key, trip in self._open.items() if key not in answered}

    def pulled(self, grid: Grid, clocked: Clocked, timeout: float | None) -> tuple[list[Message], list[str]]:
        """What arrives next; or, if nothing does in time, the ids of those that are no longer waited for.

        Raises:
            FedlabError: nothing ever arrives.
        """
        oldest = next(iter(self._open.values())).since
        replies = clocked.pull_until(self.ids(), math.inf if timeout is None else oldest + timeout)
        if replies:
            return replies, []
        if timeout is None:
            outlook = getattr(grid, "outlook", None)
            why = f": {outlook(self.ids())}" if outlook is not None else ""
            raise FedlabError(f"{len(self)} messages are under way, and none will ever be answered{why}")
        # Added up as deadlines are: subtracted, rounding may find nobody late at one.
        now = clocked.now
        late = [message_id for message_id, trip in self._open.items() if trip.since + timeout <= now]
        clocked.cancel(late)
        return [], late

    def repeats(self, node: int, round: int) -> int:
        """How often the node was sent this round's model before."""
        return self._sent[node] if round == self._round else 0

    def start(self, message_id: str, trip: Trip) -> None:
        """A message is on its way."""
        if trip.round != self._round:
            self._round, self._sent = trip.round, Counter()
        self._open[message_id] = trip
        self._sent[trip.node] += 1
        self.busy[trip.node] += 1
        self.taken[trip.node] += 1

    def end(self, message_id: str) -> Trip | None:
        """It is not under way any more; None for one that was not."""
        trip = self._open.pop(message_id, None)
        if trip is not None:
            self.busy[trip.node] -= 1
            if not self.busy[trip.node]:
                del self.busy[trip.node]
        return trip

    def written(self, writer: Writer) -> dict[str, Any]:
        """Everything; the messages go to the writer."""
        return {
            "open": [[message_id, trip.written(writer)] for message_id, trip in self._open.items()],
            "taken": sorted(self.taken.items()),
            "sent": sorted(self._sent.items()),
            "round": self._round,
        }

    def read(self, values: Mapping[str, Any], reader: Reader, models: dict[int, State]) -> None:
        """Go back to where `values` were written."""
        self._open = {message_id: Trip.read(one, reader, models) for message_id, one in values["open"]}
        self.busy = Counter(trip.node for trip in self._open.values())
        self.taken, self._sent = Counter(dict(values["taken"])), Counter(dict(values["sent"]))
        self._round = values["round"]
