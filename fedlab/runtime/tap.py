"""A Grid around a Grid that shows a watcher every reply beside the message that it answers.

It stands where a curious server stands: it sees what the strategy sees, no more and no less, and
knows whose answer nobody waits for any more. It wraps any Grid, a deployed one too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from flwr.app import Message
from flwr.serverapp import Grid

from fedlab.runtime.guard import GuardedGrid
from fedlab.runtime.wrapped import WrappedGrid, gather

Watcher = Callable[[Message, Message], None]
"""Called with (message, reply)."""
Missing = Literal["late", "stopped"]
"""Why there is no reply: it did not come in time, or enough others had come."""
Unanswered = Callable[[Sequence[Message], Missing], None]
"""Called with (messages that nobody waits for any more, why)."""


class TappedGrid(WrappedGrid):
    """Passes everything on, shows each (message, reply) to `watcher`, and tells `unanswered` of the rest."""

    def __init__(self, grid: Grid, watcher: Watcher, unanswered: Unanswered | None = None) -> None:
        super().__init__(grid)
        self.watcher, self.unanswered = watcher, unanswered
        self._open: dict[str, Message] = {}

    def _sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        self._open.update(zip(ids, messages, strict=True))

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        shown = list(replies)
        for reply in shown:
            message = self._open.pop(reply.metadata.reply_to_message_id, None)
            if message is not None:
                self.watcher(message, reply)
        return shown

    def cancel(self, message_ids: Iterable[str]) -> None:
        forgotten = list(message_ids)
        super().cancel(forgotten)
        self._forget(forgotten, "late")  # a round that has enough replies is `send_and_receive`'s affair

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        """As the inner Grid does it; what is then without a reply came too late, or was told to stop."""
        outgoing = list(messages)
        deadline = math.inf if timeout is None else self.now + timeout
        if isinstance(self.grid, GuardedGrid):  # it tells of them itself
            replies = super().send_and_receive(outgoing, timeout=timeout, enough=enough)
        else:  # what another Grid would drop, since enough had come, has reached the server as well
            ids = self.push_messages(outgoing)

            def surplus(reply: Message) -> None:
                self._arrived([reply])

            found = gather(self._clocked, ids, timeout=timeout, enough=enough, surplus=surplus)
            replies = self._arrived(found)
        # The guard may have turned good ones away since there were enough: then the clock tells.
        good = sum(not reply.has_error() for reply in replies)
        stopped = enough is not None and (good >= enough or self.now < deadline)
        self._forget([message.metadata.message_id for message in outgoing], "stopped" if stopped else "late")
        return replies

    def _forget(self, message_ids: Iterable[str], why: Missing) -> None:
        """Nobody waits for these any more."""
        missing = [self._open.pop(message_id) for message_id in message_ids if message_id in self._open]
        if missing and self.unanswered is not None:
            self.unanswered(missing, why)
