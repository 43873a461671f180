"""SimulationGrid: order, virtual time, copies, failures; no sleeping, no polling."""

from dataclasses import dataclass

import pytest
from flwr.app import Message

from fedlab.errors import UsageError
from fedlab.runtime import SimulationGrid, TappedGrid, UniformFleet, client_of
from fedlab.runtime.devices import Errand, Visit
from tests.runtime.apps import adding_app, train_messages, weights


def test_each_client_gets_its_own_copy_and_keeps_its_state() -> None:
    grid = SimulationGrid(adding_app(), 4)
    for call in (1, 2):
        replies = grid.send_and_receive(train_messages(grid.get_node_ids()))
        assert [weights(r) for r in replies] == [[c + 1.0, c + 1.0] for c in range(4)]
        assert [r.content["metrics"]["calls"] for r in replies] == [call] * 4
    assert grid.now == 2.0


def test_the_servers_own_record_stays_untouched() -> None:
    grid = SimulationGrid(adding_app(), 2)
    messages = train_messages(grid.get_node_ids())
    grid.send_and_receive(messages)
    assert messages[0].content["arrays"]["w"].numpy().tolist() == [0.0, 0.0]


def test_a_failing_client_is_a_failed_reply_with_its_traceback() -> None:
    grid = SimulationGrid(adding_app(fail_on=1), 3)
    replies = grid.send_and_receive(train_messages(grid.get_node_ids()))
    assert [r.has_error() for r in replies] == [False, True, False]
    assert "this client is broken" in replies[1].error.reason and "Traceback" in replies[1].error.reason


@dataclass(frozen=True)
class Staggered:
    """Device d takes d + 1 virtual seconds."""

    count: int

    def visit(self, errand: Errand, seed: int) -> Visit:
        return Visit(errand.at, errand.device + 1.0)


def test_pull_moves_the_clock_to_the_next_awaited_arrival() -> None:
    grid = SimulationGrid(adding_app(), Staggered(3))
    ids = grid.push_messages(train_messages(grid.get_node_ids()))
    assert grid.now == 0.0
    seen = []
    while arrived := grid.pull_messages(ids):
        seen.append((grid.now, [client_of(r.metadata.src_node_id) for r in arrived]))
    assert seen == [(1.0, [0]), (2.0, [1]), (3.0, [2])]
    assert grid.pull_messages(ids) == [] and grid.now == 3.0


def test_timeout_means_virtual_seconds() -> None:
    grid = SimulationGrid(adding_app(), Staggered(4))
    replies = grid.send_and_receive(train_messages(grid.get_node_ids()), timeout=2.5)
    assert len(replies) == 2 and grid.now == 2.5


def test_a_busy_device_takes_its_messages_one_after_the_other() -> None:
    grid = SimulationGrid(adding_app(), 2)
    node = grid.get_node_ids()[0]
    ids = grid.push_messages(train_messages([node, node, node]))
    seen = []
    while arrived := grid.pull_messages(ids):
        seen.append((grid.now, [r.content["metrics"]["calls"] for r in arrived]))
    assert seen == [(1.0, [1]), (2.0, [2]), (3.0, [3])]


def test_the_same_chunk_size_gives_the_same_replies_whatever_the_number_of_messages() -> None:
    for chunk in (1, 2, 3, 16):
        grid = SimulationGrid(adding_app(), 5, chunk=chunk)
        replies = grid.send_and_receive(train_messages(grid.get_node_ids()))
        assert [weights(r)[0] for r in replies] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_million_devices_are_a_range() -> None:
    grid = SimulationGrid(adding_app(), 1_000_000)
    assert isinstance(grid.get_node_ids(), range) and len(grid.get_node_ids()) == 1_000_000
    assert len(grid.send_and_receive(train_messages([grid.get_node_ids()[999_999]]))) == 1


def test_bad_input_is_refused_by_name() -> None:
    grid = SimulationGrid(adding_app(), 2)
    with pytest.raises(UsageError, match="no node 99; expected 2 to 3"):
        grid.push_messages(train_messages([99]))
    with pytest.raises(UsageError, match="chunk must be >= 1, got 0"):
        SimulationGrid(adding_app(), 2, chunk=0)
    for count, seconds in ((0, 1.0), (2, -1.0), (2, float("nan"))):
        with pytest.raises(UsageError):
            UniformFleet(count, seconds)


def test_the_tap_shows_every_reply_beside_its_message() -> None:
    seen: list[tuple[Message, Message]] = []
    grid = TappedGrid(SimulationGrid(adding_app(fail_on=0), 3), lambda m, r: seen.append((m, r)))
    direct = grid.send_and_receive(train_messages(grid.get_node_ids()))
    ids = grid.push_messages(train_messages(grid.get_node_ids()))
    pulled = grid.pull_messages(ids)
    assert [r for _, r in seen] == direct + pulled
    assert all(r.metadata.reply_to_message_id == m.metadata.message_id for m, r in seen)
