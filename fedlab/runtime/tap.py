"""A Grid around a Grid that shows a watcher every reply beside the message that it answers.

It stands where a curious server stands: it sees what the strategy sees, no more and no less. It
wraps any Grid, a deployed one too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedlab.runtime._flower import Run

Watcher = Callable[[Message, Message], None]
"""Called with (message, reply)."""


class TappedGrid(Grid):
    """Passes everything on, and shows each (message, reply) to `watcher`."""

    def __init__(self, grid: Grid, watcher: Watcher) -> None:
        self.grid, self.watcher = grid, watcher
        self._sent: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        return self.grid.run

    def get_node_ids(self) -> Iterable[int]:
        return self.grid.get_node_ids()

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
        self._sent.update(zip(ids, outgoing, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return self._show(self.grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        outgoing = list(messages)
        replies = list(self.grid.send_and_receive(outgoing, timeout=timeout))
        self._sent.update((message.metadata.message_id, message) for message in outgoing)
        shown = self._show(replies)
        for message in outgoing:  # what was not answered in time is forgotten
            self._sent.pop(message.metadata.message_id, None)
        return shown

    def _show(self, replies: Iterable[Message]) -> list[Message]:
        shown = list(replies)
        for reply in shown:
            message = self._sent.pop(reply.metadata.reply_to_message_id, None)
            if message is not None:
                self.watcher(message, reply)
        return shown
