"""Nodes known by their partition: what a deployed federation needs to be like a simulated one."""

from collections.abc import Iterable

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import BackendError, UsageError
from fedlab.runtime import GuardedGrid, RosterGrid, SimulationGrid, TappedGrid, WrappedGrid, enrol
from fedlab.runtime.roster import ACTION, JOIN_SECONDS, tell_partition
from tests.runtime.apps import squares_app, train_messages, weights


def app(**changes: int) -> ClientApp:
    """Clients that can be enrolled; `changes` replaces what their nodes were configured with."""
    app = squares_app()

    @app.query(ACTION)
    def tell(message: Message, context: Context) -> Message:
        context.node_config.update(changes)
        return tell_partition(message, context)

    return app


class Joining(WrappedGrid):
    """A deployed Grid as Flower has it: ids in no order, nodes that come one by one, no clock."""

    def __init__(self, inner: SimulationGrid, order: Iterable[int], at_once: int = 99) -> None:
        super().__init__(RosterGrid(inner, [inner.get_node_ids()[i] for i in order]))
        self.joined = at_once
        self.slept = 0.0

    def get_node_ids(self) -> list[int]:
        return list(self.grid.get_node_ids())[: self.joined]

    def sleep(self, seconds: float) -> None:
        """Time passes, and with each second another node joins."""
        self.slept += seconds
        self.joined = max(self.joined, int(self.slept))


@given(order=st.permutations(range(5)))
def test_any_order_of_nodes_is_put_right(order: list[int]) -> None:
    """Node 2 + i of the scrambled Grid holds partition order[i]; enrolled, node 2 + p holds p again."""
    scrambled = Joining(SimulationGrid(app(), 5), order)
    nodes = enrol(scrambled, 5)
    assert [order[node - 2] for node in nodes] == [0, 1, 2, 3, 4]
    grid = RosterGrid(scrambled, nodes)
    messages = train_messages(grid.get_node_ids())
    for message in messages:
        message.content["config"] = ConfigRecord()
    replies = grid.send_and_receive(messages)
    found = {reply.metadata.src_node_id: weights(reply)[0] for reply in replies}
    assert found == {2 + p: p**2 + 1.0 for p in range(5)}
    assert {m.metadata.message_id for m in messages} == {r.metadata.reply_to_message_id for r in replies}


def test_nodes_that_join_late_are_waited_for() -> None:
    scrambled = Joining(SimulationGrid(app(), 4), [3, 1, 0, 2], at_once=1)
    assert enrol(scrambled, 4, clock=lambda: scrambled.slept, sleep=scrambled.sleep) == [4, 3, 5, 2]
    assert 3.9 < scrambled.slept < 4.2, "the fourth came after four seconds"


def test_too_few_nodes_end_the_wait() -> None:
    scrambled = Joining(SimulationGrid(app(**{"num-partitions": 9}), 4), range(4))
    with pytest.raises(BackendError, match="4 of 9 nodes joined, and no other in 60 s"):
        enrol(scrambled, 9, clock=lambda: scrambled.slept, sleep=scrambled.sleep)
    assert scrambled.slept == pytest.approx(JOIN_SECONDS)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"num-partitions": 3}, "partition 0 of 3, but there are 2 clients.*num-supernodes=2"),
        ({"partition-id": 2}, "partition 2 of 2, but there are 2 clients"),
        ({"partition-id": -1}, "partition -1 of 2"),
        ({"partition-id": 0}, "both hold partition 0; give each SuperNode a partition-id"),
        ({"partition-id": "zero"}, "expected partition-id and num-partitions, as in flower-supernode"),
    ],
)
def test_nodes_configured_for_something_else_are_told_so(changes: dict[str, int], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        enrol(SimulationGrid(app(**changes), 2), 2)


def test_a_node_without_our_client_app_is_told_so() -> None:
    with pytest.raises(BackendError, match="node 2 could not say which partition it holds"):
        enrol(SimulationGrid(squares_app(), 2), 2)


def test_a_message_to_a_stranger_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no node 4; expected 2 to 3"):
        RosterGrid(SimulationGrid(app(), 2), [2, 3]).push_messages(train_messages([4]))


def test_messages_say_what_they_are_part_of_and_the_servers_own_stay_as_they_are() -> None:
    told: list[dict[str, object]] = []
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        told.append(dict(message.content["config"]))
        return Message(RecordDict(), reply_to=message)

    grid = RosterGrid(SimulationGrid(client, 2), [2, 3], {"cell": "none"})
    content = RecordDict({"config": ConfigRecord({"server-round": 3})})
    grid.send_and_receive([Message(content, 2, "train"), Message(content, 3, "train")])
    assert told == [{"server-round": 3, "cell": "none"}] * 2
    assert dict(content["config"]) == {"server-round": 3}


def test_guard_and_tap_see_the_partitions() -> None:
    """The guard compares the sender with the one that was asked; the tap names the client."""
    seen: list[tuple[int, int]] = []
    scrambled = Joining(SimulationGrid(app(), 3), [2, 0, 1])
    roster = RosterGrid(scrambled, enrol(scrambled, 3))
    grid = TappedGrid(
        GuardedGrid(roster),
        lambda message, reply: seen.append((message.metadata.dst_node_id, reply.metadata.src_node_id)),
    )
    messages = train_messages(grid.get_node_ids())
    for message in messages:
        message.content["config"] = ConfigRecord()
    assert not any(reply.has_error() for reply in grid.send_and_receive(messages))
    assert sorted(seen) == [(2, 2), (3, 3), (4, 4)]
