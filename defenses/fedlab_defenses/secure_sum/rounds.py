"""A round of a secure sum, as the server keeps it until its replies are fetched."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Error, Message

NOT_OPENED = 102
"""Error code of the replies of a round whose sum was not opened."""


class NotOpened(Exception):
    """Too few are left; the reason, for the replies."""


@dataclass
class Round:
    """Training messages that were pushed together, by node, and what is known of them."""

    messages: dict[int, Message]
    failed: dict[int, str] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)
    begun: bool = False
    replies: dict[str, Message] = field(default_factory=dict)

    @property
    def number(self) -> int:
        config = next(iter(self.messages.values())).content.config_records.get("config", ConfigRecord())
        return int(str(config.get("server-round", 0)))


def refused(message: Message, reason: str) -> Message:
    """A failed reply in the client's name."""
    return Message(Error(NOT_OPENED, reason), reply_to=message)
