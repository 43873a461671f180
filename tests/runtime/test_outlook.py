"""Devices that are away or never come back: the clock jumps to their return and says so, or stops."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import FedlabError, UsageError
from fedlab.runtime import GuardedGrid, InlineExecutor, SimulationGrid, TappedGrid, client_of
from fedlab.runtime.availability import Availability, AvailabilityTrace, Presence
from fedlab.runtime.devices import Errand, SimulatedFleet, Visit
from fedlab.runtime.flights import Outlook
from fedlab.snapshot import Snapshot
from tests.runtime.apps import adding_app, train_messages


def grid_of(hours: Presence, count: int = 2, **more: Any) -> tuple[SimulationGrid, list[Outlook]]:
    """Devices that take a second, and what the Grid told of times in which nobody works."""
    grid = SimulationGrid(adding_app(), SimulatedFleet(count, availability=hours, **more))
    told: list[Outlook] = []
    grid.idle = told.append
    return grid, told


def once(*rows: tuple[tuple[float, float], ...]) -> AvailabilityTrace:
    return AvailabilityTrace(rows)


def pushed(grid: Any, clients: list[int]) -> list[str]:
    nodes = grid.get_node_ids()
    return list(grid.push_messages(train_messages([nodes[client] for client in clients])))


def test_while_nobody_is_there_the_clock_jumps_and_says_where_to() -> None:
    """All are up in the first 3 of 10 s: work that is sent at 4 begins at 10 and is back at 11."""
    grid, told = grid_of(Availability(10.0, 3.0, phase_spread=0.0))
    grid.pull_until([], 4.0)
    ids = pushed(grid, [0, 1])
    assert str(grid.outlook(ids)) == (
        "no device that is waited for is there at virtual second 4; the next is back at 10"
    )
    assert len(grid.pull_messages(ids)) == 2 and grid.now == 11.0
    assert told == [Outlook(now=4.0, working=0, away=2, back=10.0)]
    assert str(grid.outlook(ids)) == "nothing is under way"


def test_nothing_is_told_while_anybody_works() -> None:
    """Device 0 works until 1, device 1 is back at 5: told once, when the first is done."""
    grid, told = grid_of(once(((0.0, 100.0),), ((5.0, 100.0),)))
    ids = pushed(grid, [0, 1])
    assert str(grid.outlook(ids)) == "1 device is at work"
    grid.pull_messages(ids)
    assert told == [] and grid.now == 1.0
    grid.pull_messages(ids)
    assert [(one.now, one.back) for one in told] == [(1.0, 5.0)] and grid.now == 6.0


def test_a_deadline_passes_while_everybody_is_away() -> None:
    grid, told = grid_of(once(((5.0, 100.0),), ((7.0, 100.0),)))
    assert grid.send_and_receive(train_messages(grid.get_node_ids()), timeout=2.0) == []
    assert grid.now == 2.0 and told == [Outlook(0.0, 0, 2, 5.0)]


def test_a_device_that_never_comes_back_is_waited_for_in_vain() -> None:
    """Device 0 is there until 2, device 1 until 9. At 3 only the latter answers; the former never starts,
    and neither does what is sent to it afterwards."""
    grid, told = grid_of(once(((0.0, 2.0),), ((0.0, 9.0),)))
    grid.pull_until([], 3.0)
    nodes = grid.get_node_ids()
    assert [grid.back_at(node) for node in nodes] == [math.inf, 3.0]
    assert [grid.available(node) for node in nodes] == [False, True]
    ids = pushed(grid, [0, 1, 0])
    assert [client_of(r.metadata.src_node_id) for r in grid.pull_messages(ids)] == [1] and grid.now == 4.0
    assert grid.pull_messages(ids) == [] and grid.now == 4.0
    assert told == [Outlook(4.0, 0, 2, math.inf)] and told[0].never
    assert "no device that is waited for is ever there again after virtual second 4;" in str(told[0])
    assert grid.pull_until(ids, 5.0) == [] and grid.now == 5.0
    grid.cancel(ids)
    assert str(grid.outlook(ids)) == "nothing is under way"


def test_clients_of_devices_that_never_start_never_run() -> None:
    class Recording(InlineExecutor):
        ran: ClassVar[list[int]] = []

        def run(self, chunks: Any) -> Any:
            self.ran += [client_of(one.message.metadata.dst_node_id) for chunk in chunks for one in chunk]
            return super().run(chunks)

    fleet = SimulatedFleet(2, availability=once(((0.0, 1.0),), ((0.0, 9.0),)))
    grid = SimulationGrid(adding_app(), fleet, Recording())
    grid.pull_until([], 2.0)
    assert len(grid.send_and_receive(train_messages(grid.get_node_ids()))) == 1
    assert Recording.ran == [1]


def test_when_the_whole_fleet_has_left_the_next_message_ends_the_run() -> None:
    """The last device leaves at 9; its work, begun before, still arrives at 9.5, and what was sent to the
    other one meanwhile is waited for in vain."""
    grid, _ = grid_of(once(((0.0, 2.0),), ((0.0, 9.0),)))
    grid.pull_until([], 8.5)
    ids = pushed(grid, [1])
    grid.pull_until([], 9.2)
    ids += pushed(grid, [0])
    assert len(grid.pull_messages(ids)) == 1 and grid.now == 9.5
    assert grid.pull_messages(ids) == [] and grid.outlook(ids).never
    with pytest.raises(FedlabError, match="no device is ever there again: the last one of the fleet left at"):
        pushed(grid, [1])
    assert grid.now == 9.5


@pytest.mark.parametrize("silent", [0.0, 0.999])
def test_what_never_arrives_is_part_of_a_snapshot(silent: float) -> None:
    """Through JSON, which knows no infinity."""
    hours = once(((0.0, 2.0),), ((5.0, 9.0),))
    grid, _ = grid_of(hours, dropout=silent)
    grid.pull_until([], 3.0)
    ids = pushed(grid, [0, 1])
    snapshot = grid.snapshot()
    other, told = grid_of(hours, dropout=silent)
    other.restore(Snapshot(snapshot.tensors, json.loads(json.dumps(snapshot.values, allow_nan=False))))
    assert other.outlook(ids) == grid.outlook(ids) == Outlook(3.0, 0, 2, 5.0)
    for one in (grid, other):
        assert len(one.pull_messages(ids)) == 1 and one.now == 6.0
        assert one.pull_messages(ids) == []
    assert told[-1].never


def test_grids_around_the_grid_pass_it_on() -> None:
    inner, told = grid_of(once(((5.0, 9.0),)), count=1)
    grid = TappedGrid(GuardedGrid(inner), lambda message, reply: None)
    ids = pushed(grid, [0])
    assert grid.outlook(ids) == inner.outlook(ids) == Outlook(0.0, 0, 1, 5.0)
    assert grid.back_at(grid.get_node_ids()[0]) == 6.0
    assert len(grid.pull_messages(ids)) == 1 and len(told) == 1


@dataclass(frozen=True)
class Backwards:
    """Starts before it is asked."""

    start: float
    count: int = 1

    def visit(self, errand: Errand, seed: int) -> Visit:
        return Visit(self.start, 1.0)


def test_a_fleet_that_turns_time_back_is_refused() -> None:
    grid = SimulationGrid(adding_app(), Backwards(2.0))
    grid.pull_until([], 3.0)
    with pytest.raises(UsageError, match="lets device 0 start at 2; expected at least 3: time never runs"):
        pushed(grid, [0])


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["push", "pull", "until", "cancel"])), max_size=25),
    st.floats(0, 1),
    st.booleans(),
)
def test_virtual_time_never_runs_backwards(
    steps: list[tuple[int, str]], spread: float, once_only: bool
) -> None:
    """Whatever is pushed, pulled and cancelled, with deadlines in the past as well."""
    rows = (((0.0, 3.0), (6.0, 7.0)), ((2.0, 4.0),), ((0.0, 100.0),))
    hours = AvailabilityTrace(rows) if once_only else Availability(10.0, 3.0, phase_spread=spread)
    grid, _ = grid_of(hours, 3, dropout=0.2)
    ids: list[str] = []
    before = grid.now
    for client, step in steps:
        if step == "push":
            ids += pushed(grid, [client])
        elif step == "pull":
            grid.pull_messages(ids)
        elif step == "until":
            grid.pull_until(ids, grid.now - 1.0 + client)
        else:
            grid.cancel(ids[:client])
        assert grid.now >= before and grid.now < math.inf
        before = grid.now
