"""The two Grids that only other people's apps need: one in front of the guard, one behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from flwr.app import ConfigRecord, Message
from flwr.common.secure_aggregation.secaggplus_constants import Stage
from flwr.serverapp import Grid

from fedlab.apps.flower import declare, masks, too_few
from fedlab.runtime import client_of
from fedlab.runtime._flower import RunNotRunningException
from fedlab.runtime.wrapped import WrappedGrid

PATIENCE = 20
"""How often a server may ask who is there without sending anything; Flower's strategies ask every second."""


class FrontGrid(WrappedGrid):
    """What the app's server holds: threads enter one after the other, and nobody waits for ever."""

    def __init__(self, grid: Grid, supernodes: int) -> None:
        super().__init__(grid)
        self.supernodes = supernodes
        self._lock = threading.RLock()
        self._thread = threading.get_ident()
        self._asked = 0
        self._closed = False

    def close(self) -> None:
        """The run has ended; threads of Flower's older server that still ask are told so, and end."""
        self._closed = True

    def get_node_ids(self) -> Iterable[int]:
        if self._closed:
            raise RunNotRunningException
        if threading.get_ident() == self._thread:
            self._asked += 1
            if self._asked > PATIENCE:
                raise too_few(self.supernodes, "for more")
        return self.grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        with self._lock:
            return super().push_messages(self._ready(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        with self._lock:
            return super().pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        with self._lock:
            return super().send_and_receive(self._ready(messages), timeout=timeout, enough=enough)

    def _ready(self, messages: Iterable[Message]) -> list[Message]:
        outgoing = list(messages)
        for message in outgoing:
            if message.has_content():
                declare(message.content)
        self._asked = 0
        return outgoing


class Counted(Protocol):
    """Whoever knows to which round and client a training message goes."""

    @property
    def round(self) -> int:
        """The one that goes on; 0 before the first."""

    def round_of(self, message: Message) -> int:
        """The round of a training message that went out."""

    def client_of(self, message: Message) -> int:
        """Number of the client that a message goes to."""


class Rounds:
    """Counts the rounds of training in what goes out and comes in.

    Whoever is asked again is asked in a new round, save in a later stage of secure aggregation. So is
    everybody after an answer has come back, unless the messages say to which round they belong, by their
    group or a "server-round" in their configuration.

    Args:
        began: told the number of each round as it begins.
    """

    def __init__(self, began: Callable[[int], None]) -> None:
        self.round = 0
        self._began = began
        self._rounds: dict[str, int] = {}
        self._asked: set[int] = set()
        self._hint: object = None
        self._answered = False

    def round_of(self, message: Message) -> int:
        """The round of a training message that went out."""
        return self._rounds[message.metadata.message_id]

    def sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        """`messages` went out under `ids`."""
        for message_id, message in zip(ids, messages, strict=True):
            if is_training(message):
                node, hint = message.metadata.dst_node_id, _hint(message)
                other = hint != self._hint if hint is not None else self._answered
                again = node in self._asked and masks(message) in ("", Stage.SETUP)
                if not self.round or other or again:
                    self._next(hint)
                self._asked.add(node)
                self._rounds[message_id] = self.round

    def _next(self, hint: object) -> None:
        self.round += 1
        self._asked, self._hint, self._answered = set(), hint, False
        self._began(self.round)

    def arrived(self, replies: Iterable[Message]) -> None:
        """`replies` came in."""
        self._answered |= any(is_training(reply) for reply in replies)


class RoundsGrid(WrappedGrid):
    """Counts the rounds of what passes; see `Rounds`.

    Args:
        began: told the number of each round as it begins.
    """

    def __init__(self, grid: Grid, began: Callable[[int], None]) -> None:
        super().__init__(grid)
        self._rounds = Rounds(began)

    @property
    def round(self) -> int:
        """The one that goes on; 0 before the first."""
        return self._rounds.round

    def round_of(self, message: Message) -> int:
        """The round of a training message that went out."""
        return self._rounds.round_of(message)

    def client_of(self, message: Message) -> int:
        """The partition that a message goes to."""
        return client_of(message.metadata.dst_node_id)

    def _sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        self._rounds.sent(ids, messages)

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        arrived = list(replies)
        self._rounds.arrived(arrived)
        return arrived


def is_training(message: Message) -> bool:
    return message.metadata.message_type.partition(".")[0] == "train"


def _hint(message: Message) -> object:
    """To which round the message says it belongs; None if it does not."""
    told = {
        key: value
        for record in message.content.values()
        if isinstance(record, ConfigRecord)
        for key, value in record.items()
    }
    found = (message.metadata.group_id or None, told.get("server-round", told.get("server_round")))
    return None if found == (None, None) else found
