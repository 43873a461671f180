"""What a server tells clients beside the model, and which of them have to forget something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from fedlab.clients.app import EPOCHS, LOST, LOST_REPEAT, REPEAT


class Instructions:
    """The messages of one model: clients that are told the same share one content.

    Args:
        records: what all are sent.
        config: what all are told.
        round: the number of the server update that they work for, from 1.
    """

    def __init__(self, records: Mapping[str, ArrayRecord], config: ConfigRecord, round: int) -> None:
        self.records, self.round = dict(records), round
        self._about = {**config, "server-round": round}
        self._contents: dict[tuple[int, int, int, int], RecordDict] = {}

    def message(
        self, node: int, *, epochs: int = 0, lost_since: tuple[int, int] = (0, 0), repeat: int = 0
    ) -> Message:
        """The message to `node`; what is 0 is not said."""
        key = epochs, *lost_since, repeat
        if key not in self._contents:
            names = EPOCHS, LOST, LOST_REPEAT, REPEAT
            said = {name: n for name, n in zip(names, key, strict=True) if n}
            self._contents[key] = RecordDict({**self.records, "config": ConfigRecord(self._about | said)})
        return Message(self._contents[key], dst_node_id=node, message_type=MessageType.TRAIN)


class OutOfStep:
    """Clients whose memory may be ahead of the server's: what they did last has not counted (yet).

    Rules such as SCAFFOLD keep one half of their memory at the client; if an update is lost, the halves
    disagree for good unless the client is told to forget the rounds that did not count.

    Args:
        matters: whether the local rule has such a memory; if not, nothing is noted.
    """

    def __init__(self, matters: bool) -> None:
        self.matters = matters
        self._since: dict[int, tuple[int, int]] = {}  # by node; none of its updates has counted from there on

    def since(self, node: int) -> tuple[int, int]:
        """(round, repeat) of the message from which on the node has to forget; (0, 0) for none."""
        return self._since.get(node, (0, 0))

    def asked(self, node: int, round: int, repeat: int = 0) -> None:
        """It was sent the round's model, for the `repeat`-th time again; the answer may be lost."""
        if self.matters:
            self._since.setdefault(node, (round, repeat))

    def counted(self, nodes: Iterable[int]) -> None:
        """Their updates count."""
        for node in nodes:
            self._since.pop(node, None)

    def values(self) -> list[tuple[int, int, int]]:
        """For a checkpoint."""
        return [(node, *since) for node, since in self._since.items()]

    def restore(self, values: Iterable[tuple[int, int, int]]) -> None:
        """What `values` gave."""
        self._since = {node: (round, repeat) for node, round, repeat in values}
