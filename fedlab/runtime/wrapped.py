"""Grids around Grids, and the clock that they share.

`Grid` is Flower's public seam between server code and the world; whatever is not learning stands
there: the tap, the guard. A simulated Grid has a virtual clock and `pull_until`; a deployed one has
neither, and gets them from `Deployed`, where a second is a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedlab.runtime._flower import Run
from fedlab.runtime.flights import Outlook

POLL_SECONDS = 0.1
"""How long a deployed Grid is left alone between two looks."""


@runtime_checkable
class Clocked(Protocol):
    """What our Grids offer beyond Flower's."""

    @property
    def now(self) -> float:
        """Seconds since the start, virtual ones in a simulation."""

    def pull_until(self, message_ids: Iterable[str], deadline: float) -> list[Message]:
        """The next replies to arrive by `deadline`; [] when none will, and then it is `deadline`."""

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Nobody waits for these any more: their replies must not come back."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        """Push, then wait for all replies, for `enough` of them without error, or for `timeout` seconds."""


def gather(
    grid: Clocked,
    message_ids: Sequence[str],
    *,
    timeout: float | None,
    enough: int | None,
    surplus: Callable[[Message], None] | None = None,
) -> list[Message]:
    """Replies in the order of arrival, until all are in, `timeout` seconds have passed, or `enough`
    of them carry no error; the rest is cancelled.

    Of several that arrive at the same time as the last one needed, those sent first count; the others
    have reached the server, and `surplus` is told of them.
    """
    deadline = float("inf") if timeout is None else grid.now + timeout
    waiting = dict.fromkeys(filter(None, message_ids))  # Flower: no id for what could not be sent
    replies: list[Message] = []
    good = 0
    while waiting and (enough is None or good < enough):
        arrived = grid.pull_until(waiting.keys(), deadline)
        if not arrived:
            break
        for reply in arrived:
            waiting.pop(reply.metadata.reply_to_message_id, None)
            if enough is None or good < enough:
                replies.append(reply)
                good += not reply.has_error()
            elif surplus is not None:
                surplus(reply)
    grid.cancel(waiting)
    return replies


class WrappedGrid(Grid):
    """Passes everything on to another Grid; a kind of Grid overrides `_sent` and `_arrived`."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._clocked = clock_of(grid)

    def _sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        """`messages` went out under `ids`."""

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        """What to pass on of the replies that came in."""
        return list(replies)

    def expect(self, messages: Mapping[str, Message]) -> None:
        """These are under way already, by id: they were sent before the server was interrupted."""
        if isinstance(self.grid, WrappedGrid):
            self.grid.expect(messages)
        self._sent(list(messages), list(messages.values()))

    def set_run(self, run: Run) -> None:
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        return self.grid.run

    @property
    def now(self) -> float:
        return self._clocked.now

    def get_node_ids(self) -> Iterable[int]:
        return self.grid.get_node_ids()

    def available(self, node: int) -> bool:
        """Whether a node is there now; of a deployed Grid every one is that it lists."""
        there = getattr(self.grid, "available", None)
        return there is None or bool(there(node))

    def back_at(self, node: int) -> float:
        """When a node's device could start on a message; now, on a deployed Grid; inf if never."""
        known = getattr(self.grid, "back_at", None)
        return self.now if known is None else float(known(node))

    def outlook(self, message_ids: Iterable[str]) -> Outlook | None:
        """When what is awaited goes on; of a deployed Grid nobody knows."""
        known = getattr(self.grid, "outlook", None)
        return None if known is None else cast(Outlook | None, known(message_ids))

    def _noted(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        sent = numbered(ids, messages)
        self._sent([message_id for message_id, _ in sent], [message for _, message in sent])

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        outgoing = list(messages)
        ids = list(self.grid.push_messages(outgoing))
        self._noted(ids, outgoing)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return self._arrived(self.grid.pull_messages(list(message_ids)))

    def pull_until(self, message_ids: Iterable[str], deadline: float) -> list[Message]:
        # What can be looked through again is passed on as it is: it may be a view of thousands.
        waiting = message_ids if isinstance(message_ids, Collection) else list(message_ids)
        while arrived := self._clocked.pull_until(waiting, deadline):
            passed = self._arrived(arrived)
            if passed:
                return passed
        return []

    def cancel(self, message_ids: Iterable[str]) -> None:
        self._clocked.cancel(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        """As the inner Grid does it, which may judge a round as a whole.

        A kind of Grid that drops or fails replies overrides this with `gather`, to wait for others.
        """
        outgoing = list(messages)
        replies = self._clocked.send_and_receive(outgoing, timeout=timeout, enough=enough)
        self._noted([message.metadata.message_id for message in outgoing], outgoing)
        return self._arrived(replies)


def numbered(ids: Iterable[str], messages: Sequence[Message]) -> list[tuple[str, Message]]:
    """(id, message) of those that went out; Flower's Grids give no id for what could not be sent, or leave
    it out."""
    given = list(ids)
    if len(given) == len(messages):
        return [(i, message) for i, message in zip(given, messages, strict=True) if i]
    known = set(given)
    return [(m.metadata.message_id, m) for m in messages if m.metadata.message_id in known]


class Deployed:
    """A Grid of real nodes behind the same clock: it is asked again until something has arrived.

    Args:
        clock, sleep: the time that passes; another one in tests.
    """

    def __init__(
        self,
        grid: Grid,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.grid, self._clock, self._sleep = grid, clock, sleep
        self._start = clock()

    @property
    def now(self) -> float:
        return self._clock() - self._start

    def pull_until(self, message_ids: Iterable[str], deadline: float) -> list[Message]:
        waiting = list(message_ids)
        while waiting:
            arrived = list(self.grid.pull_messages(waiting))
            left = deadline - self.now
            if arrived or left <= 0.0:
                return arrived
            self._sleep(min(POLL_SECONDS, left))
        return []

    def cancel(self, message_ids: Iterable[str]) -> None:
        """Flower offers no way to call work back; late replies are simply not pulled."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        """Push, then wait for all replies, for `enough` of them without error, or for `timeout` seconds."""
        return gather(self, list(self.grid.push_messages(list(messages))), timeout=timeout, enough=enough)


def clock_of(grid: Grid) -> Clocked:
    """The Grid itself, or a deployed one behind a clock."""
    return grid if isinstance(grid, Clocked) else Deployed(grid)
