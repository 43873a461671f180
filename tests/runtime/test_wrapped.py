"""Grids around Grids: the clock of a deployed Grid, waiting, and what a wrapper passes on. Nothing sleeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedlab.runtime import GuardedGrid, SimulationGrid, TappedGrid, WrappedGrid, client_of
from fedlab.runtime._flower import enter_run, number
from fedlab.runtime.wrapped import POLL_SECONDS, Clocked, Deployed, gather
from tests.runtime.apps import adding_app, train_messages

INF = float("inf")


class Clock:
    """Time passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.naps = 100.0, 0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0.0
        self.now += seconds
        self.naps += 1


class FakeDeployment(Grid):
    """Node d answers `delays[d]` seconds after it was asked; None: it cannot even be sent to.

    As Flower's HttpGrid: an empty id for what could not be sent, and [] while nothing has arrived.
    """

    def __init__(self, clock: Clock, delays: Sequence[float | None]) -> None:
        self.clock, self.delays = clock, delays
        self.due: dict[str, tuple[float, Message]] = {}
        self.asked: list[set[str]] = []
        enter_run()

    def set_run(self, run: object) -> None:
        raise NotImplementedError

    @property
    def run(self) -> object:  # type: ignore[override]
        return "the run"

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):  # type: ignore[no-untyped-def]
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return range(2, 2 + len(self.delays))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            number(message, f"d{len(self.due)}")
            delay = self.delays[message.metadata.dst_node_id - 2]
            if delay is None:
                ids.append("")
                continue
            reply = Message(RecordDict({"metrics": MetricRecord({"n": 1})}), reply_to=message)
            self.due[message.metadata.message_id] = (self.clock() + delay, reply)
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.asked.append(set(message_ids))
        ready = [i for i in sorted(self.asked[-1]) if i in self.due and self.due[i][0] <= self.clock()]
        return [self.due.pop(i)[1] for i in ready]

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        raise AssertionError("Flower's own waits three seconds between two looks")


def deployment(*delays: float | None) -> tuple[Clock, FakeDeployment, Deployed]:
    clock = Clock()
    grid = FakeDeployment(clock, delays)
    return clock, grid, Deployed(grid, clock, clock.sleep)


def nodes(replies: Iterable[Message]) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


def test_a_deployed_grid_is_asked_again_until_something_arrives() -> None:
    clock, grid, deployed = deployment(0.35, 0.0)
    ids = deployed.grid.push_messages(train_messages([2, 3]))
    assert deployed.now == 0.0
    assert nodes(deployed.pull_until(ids, INF)) == [3] and clock.naps == 0
    assert nodes(deployed.pull_until(ids[:1], INF)) == [2]
    assert clock.naps == 4, "looks at 0, 0.1, 0.2, 0.3 and 0.4 s"
    assert abs(deployed.now - 4 * POLL_SECONDS) < 1e-9
    assert len(grid.asked) == 6


def test_a_deployed_grid_gives_up_at_the_deadline_and_not_later() -> None:
    clock, _, deployed = deployment(9.0)
    ids = deployed.grid.push_messages(train_messages([2]))
    assert deployed.pull_until(ids, 0.25) == []
    assert abs(deployed.now - 0.25) < 1e-9 and clock.naps == 3
    assert deployed.pull_until([], INF) == [], "nothing to wait for is not waited for"


def test_gather_takes_arrivals_in_order_until_enough_are_good() -> None:
    _, _, deployed = deployment(0.3, 0.1, 0.2, 5.0)
    ids = deployed.grid.push_messages(train_messages([2, 3, 4, 5]))
    assert nodes(gather(deployed, ids, timeout=None, enough=2)) == [3, 4]
    _, _, deployed = deployment(0.3, 0.1, 0.2, 5.0)
    assert nodes(deployed.send_and_receive(train_messages([2, 3, 4, 5]), timeout=1.0)) == [3, 4, 2]
    assert abs(deployed.now - 1.0) < 1e-9


def test_a_message_that_could_not_be_sent_is_not_waited_for() -> None:
    """Flower's own send_and_receive waits for it until the timeout."""
    clock, grid, deployed = deployment(None, 0.0)
    wrapped = WrappedGrid(grid)
    wrapped._clocked = deployed
    assert nodes(wrapped.send_and_receive(train_messages([2, 3]), timeout=3600.0)) == [3]
    assert clock.naps == 0


def test_a_wrapper_passes_everything_on() -> None:
    _, grid, deployed = deployment(0.0, 0.0)
    wrapped = WrappedGrid(grid)
    wrapped._clocked = deployed
    assert isinstance(wrapped, Clocked) and not isinstance(grid, Clocked)
    assert list(wrapped.get_node_ids()) == [2, 3] and wrapped.run == "the run" and wrapped.now == 0.0
    assert wrapped.create_message(RecordDict(), "query", 2, "g").metadata.group_id == "g"
    ids = wrapped.push_messages(iter(train_messages([2, 3])))
    assert nodes(wrapped.pull_messages(iter(ids))) == [2, 3]


def test_the_clock_is_the_innermost_ones() -> None:
    inner = SimulationGrid(adding_app(), 3)
    outer = TappedGrid(WrappedGrid(inner), lambda message, reply: None)
    assert len(outer.send_and_receive(train_messages(outer.get_node_ids()), timeout=5.0)) == 3
    assert outer.now == inner.now == 1.0
    ids = outer.push_messages(train_messages([2]))
    assert outer.pull_until(ids, 1.5) == [] and inner.now == 1.5
    assert len(outer.pull_until(ids, INF)) == 1 and inner.now == 2.0


class Picky(WrappedGrid):
    """Drops the replies of node 2."""

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        return [reply for reply in replies if reply.metadata.src_node_id != 2]


def test_dropping_all_that_arrived_is_no_reason_to_stop_waiting() -> None:
    """[] from `pull_until` means that nothing more will come."""
    _, grid, deployed = deployment(0.0, 0.5)
    picky = Picky(grid)
    picky._clocked = deployed
    ids = picky.push_messages(train_messages([2, 3]))
    assert nodes(picky.pull_until(ids, INF)) == [3]
    assert picky.pull_until(ids[:1], 2.0) == []


def test_the_tap_sees_what_a_wrapper_beneath_lets_through() -> None:
    seen: list[int] = []
    _, grid, deployed = deployment(0.0, 0.1, 0.2)
    picky = Picky(grid)
    picky._clocked = deployed
    tapped = TappedGrid(picky, lambda message, reply: seen.append(message.metadata.dst_node_id))
    assert seen == nodes(tapped.send_and_receive(train_messages([2, 3, 4]), timeout=1.0)) == [3, 4]


@pytest.mark.parametrize(
    ("timeout", "enough", "expected"),
    [
        (None, None, []),
        (2.5, None, [("late", [4, 5])]),
        (None, 3, [("stopped", [5])]),
        (2.5, 3, [("late", [4, 5])]),  # two of three when time was up
        (2.5, 2, [("stopped", [4, 5])]),
        (2.0, 2, [("stopped", [4, 5])]),  # enough at the last moment
        (0.5, None, [("late", [2, 3, 4, 5])]),
    ],
)
def test_the_tap_tells_who_came_too_late_and_who_was_told_to_stop(
    timeout: float | None, enough: int | None, expected: list[tuple[str, list[int]]]
) -> None:
    """Nodes 2 to 5 answer after 1, 2, 3 and 4 seconds."""
    _, grid, deployed = deployment(1.0, 2.0, 3.0, 4.0)
    told: list[tuple[str, list[int]]] = []

    def unanswered(messages: Sequence[Message], why: str) -> None:
        told.append((why, [message.metadata.dst_node_id for message in messages]))

    tapped = TappedGrid(grid, lambda message, reply: None, unanswered)
    tapped._clocked = deployed
    tapped.send_and_receive(train_messages([2, 3, 4, 5]), timeout=timeout, enough=enough)
    assert told == expected and not tapped._open


def test_the_tap_forgets_what_is_cancelled() -> None:
    seen: list[Message] = []
    tapped = TappedGrid(SimulationGrid(adding_app(), 2), lambda message, reply: seen.append(reply))
    ids = tapped.push_messages(train_messages(tapped.get_node_ids()))
    tapped.cancel(ids[:1])
    assert nodes(tapped.pull_messages(ids)) == nodes(seen) == [3]
    assert not tapped._open


def test_what_came_when_there_was_enough_has_reached_the_server_all_the_same() -> None:
    """Four devices of equal speed, two answers needed: the strategy gets two, the watcher knows of all."""
    seen: list[int] = []
    turned: list[tuple[int, str]] = []
    bare = TappedGrid(
        SimulationGrid(adding_app(), 4), lambda m, r: seen.append(client_of(r.metadata.src_node_id))
    )
    guarded = TappedGrid(
        GuardedGrid(
            SimulationGrid(adding_app(), 4),
            rejected=lambda m, r, kind, reason: turned.append((client_of(r.metadata.src_node_id), kind)),
        ),
        lambda m, r: seen.append(client_of(r.metadata.src_node_id)),
    )
    for grid, expected in ((bare, [2, 3, 0, 1]), (guarded, [0, 1])):
        seen.clear()
        replies = grid.send_and_receive(train_messages(grid.get_node_ids()), enough=2)
        assert [client_of(r.metadata.src_node_id) for r in replies] == [0, 1]
        assert seen == expected and not grid._open
    assert turned == [(2, "surplus"), (3, "surplus")]
