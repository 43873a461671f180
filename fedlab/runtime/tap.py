"""A Grid around a Grid that shows a watcher every reply beside the message that it answers.

It stands where a curious server stands: it sees what the strategy sees, no more and no less. It
wraps any Grid, a deployed one too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fedlab.runtime.wrapped import WrappedGrid

Watcher = Callable[[Message, Message], None]
"""Called with (message, reply)."""


class TappedGrid(WrappedGrid):
    """Passes everything on, and shows each (message, reply) to `watcher`."""

    def __init__(self, grid: Grid, watcher: Watcher) -> None:
        super().__init__(grid)
        self.watcher = watcher
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
        for message_id in forgotten:
            self._open.pop(message_id, None)
