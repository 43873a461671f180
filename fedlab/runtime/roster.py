"""A deployed Grid whose nodes are known by the partition that they hold.

Flower draws the id of a node at random, anew for every run; what a scenario knows are clients 0 to
n - 1. `enrol` asks every node which partition it holds, and a `RosterGrid` then shows the holder of
partition p under the id that it has in a simulation. Sampling, the order of sums and the names of
clients are then those of the simulation, and so are the bits of the result.

Nodes say their partition because their operator configured it (`flower-supernode --node-config
"partition-id=0 num-partitions=2"`); Flower's own simulation engine does so by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from fedlab.errors import BackendError, UsageError
from fedlab.runtime._flower import FIRST_NODE_ID, number, renamed
from fedlab.runtime.wrapped import POLL_SECONDS, Deployed, WrappedGrid, gather

ACTION = "partition"
"""A ClientApp that is to be enrolled registers `app.query(ACTION)(tell_partition)`."""
KEYS = ("partition-id", "num-partitions")
JOIN_SECONDS = 60.0
"""How long `enrol` waits for another node to join."""
ANSWER_SECONDS = 300.0
"""How long it waits for a node's answer: a SuperNode starts a Python process for it first."""


def tell_partition(message: Message, context: Context) -> Message:
    """The client's side: what its node was configured with."""
    known = ConfigRecord()
    for key in KEYS:
        if key in context.node_config:
            known[key] = context.node_config[key]
    return Message(RecordDict({"node": known}), reply_to=message)


def enrol(
    grid: Grid,
    partitions: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[int]:
    """The ids of the nodes that hold partitions 0 to `partitions` - 1, in that order.

    Nodes may still be joining: they are asked as they come.

    Raises:
        UsageError: the nodes are configured for another number of partitions, or two hold the same.
        BackendError: a node could not answer, or too few joined.
    """
    deployed = Deployed(grid, clock, sleep)
    holder: dict[int, int] = {}
    asked: set[int] = set()
    waited = 0.0
    while len(holder) < partitions:
        new = [node for node in grid.get_node_ids() if node not in asked]
        if not new and waited >= JOIN_SECONDS:
            raise BackendError(
                f"{len(holder)} of {partitions} nodes joined, and no other in {JOIN_SECONDS:.0f} s; start one"
                " SuperNode per client"
            )
        if not new:
            sleep(POLL_SECONDS)
            waited += POLL_SECONDS
            continue
        waited = 0.0
        asked.update(new)
        questions = [Message(RecordDict(), node, f"query.{ACTION}") for node in new]
        for reply in deployed.send_and_receive(questions, timeout=ANSWER_SECONDS):
            node, partition = reply.metadata.src_node_id, _partition(reply, partitions)
            if partition in holder:
                raise UsageError(
                    f"nodes {holder[partition]} and {node} both hold partition {partition}; give each"
                    " SuperNode a partition-id of its own"
                )
            holder[partition] = node
    return [holder[partition] for partition in range(partitions)]


def _partition(reply: Message, partitions: int) -> int:
    node = reply.metadata.src_node_id
    if reply.has_error():
        raise BackendError(f"node {node} could not say which partition it holds: {reply.error.reason}")
    told = reply.content.config_records["node"]
    if not all(isinstance(told.get(key), int) for key in KEYS):
        raise UsageError(
            f"node {node} says {dict(told)}; expected {' and '.join(KEYS)}, as in flower-supernode"
            f' --node-config "partition-id=0 num-partitions={partitions}"'
        )
    partition, count = (int(str(told[key])) for key in KEYS)
    if count != partitions or not 0 <= partition < partitions:
        raise UsageError(
            f"node {node} holds partition {partition} of {count}, but there are {partitions} clients"
            " (clients.count); make them equal. In Flower's simulation: flwr run . --federation-config"
            f' "num-supernodes={partitions}"; deployed: start {partitions} SuperNodes, each with'
            f' --node-config "partition-id=... num-partitions={partitions}"'
        )
    return partition


class RosterGrid(WrappedGrid):
    """Shows the nodes of another Grid under the ids that they have in a simulation.

    Args:
        grid: any Flower Grid.
        nodes: its node ids, in the order of the partitions that they hold: see `enrol`.
        config: what each message's ConfigRecord "config" says besides.
    """

    def __init__(
        self, grid: Grid, nodes: Sequence[int], config: Mapping[str, str | int] | None = None
    ) -> None:
        super().__init__(grid)
        self.nodes, self.config = list(nodes), dict(config or {})
        self._shown = {node: FIRST_NODE_ID + partition for partition, node in enumerate(self.nodes)}

    def get_node_ids(self) -> range:
        return range(FIRST_NODE_ID, FIRST_NODE_ID + len(self.nodes))

    def available(self, node: int) -> bool:
        """Whether the holder of that partition is there now."""
        return super().available(self.nodes[node - FIRST_NODE_ID])

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send; the messages get the ids under which they went out.

        Raises:
            UsageError: a message to a node that does not exist.
        """
        outgoing = list(messages)
        contents: dict[int, RecordDict] = {}  # messages of a round share one
        for message in outgoing:
            contents.setdefault(id(message.content), self._told(message.content))
        ids = list(
            self.grid.push_messages([self._readdressed(one, contents[id(one.content)]) for one in outgoing])
        )
        for message, message_id in zip(outgoing, ids, strict=False):  # none for what could not be sent
            number(message, message_id or "")
        return ids

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        return gather(self, self.push_messages(messages), timeout=timeout, enough=enough)

    def _told(self, content: RecordDict) -> RecordDict:
        if not self.config:
            return content
        config = ConfigRecord({**content.config_records.get("config", {}), **self.config})
        return RecordDict({**content, "config": config})

    def _readdressed(self, message: Message, content: RecordDict) -> Message:
        about = message.metadata
        if about.dst_node_id not in self.get_node_ids():
            nodes = self.get_node_ids()
            raise UsageError(
                f"no node {about.dst_node_id}; expected {nodes[0]} to {nodes[-1]} (get_node_ids())"
            )
        node = self.nodes[about.dst_node_id - FIRST_NODE_ID]
        return Message(content, node, about.message_type, ttl=about.ttl, group_id=about.group_id)

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        return [
            renamed(reply, self._shown.get(reply.metadata.src_node_id, reply.metadata.src_node_id))
            for reply in replies
        ]
