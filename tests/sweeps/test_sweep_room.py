"""What a cell takes of the machine."""

from __future__ import annotations

from typing import Any

import pytest

from fedlab.scenario.schema import Runtime
from fedlab.sweeps.room import Room, taken, turns

WHOLE = Room(8, 1.0, 1.0)


@pytest.mark.parametrize(
    ("runtime", "room"),
    [
        ({"executor": "inline"}, Room(1)),
        ({"executor": "inline", "workers": 4}, Room(1)),  # workers are Ray's
        ({"workers": "auto"}, Room(8)),
        ({"workers": 3}, Room(3)),
        ({"workers": 3, "num_cpus": 0.5}, Room(2)),
        ({"workers": 3, "num_cpus": 2.0}, Room(6)),
        ({"workers": 30}, Room(8)),  # which runs alone, and as fast as it can
        ({"workers": "auto", "address": "h:1"}, Room(1, cluster=1.0)),
        ({"workers": 3, "address": "h:1"}, Room(1, cluster=0.25)),  # of a cluster that holds 12
        ({"workers": 30, "address": "h:1"}, Room(1, cluster=1.0)),
        ({"executor": "inline", "num_gpus": 0.25}, Room(1, 0.25)),
        ({"workers": 2, "num_gpus": 1.0}, Room(2, 1.0)),
    ],
)
def test_what_a_cell_takes(runtime: dict[str, Any], room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlab.sweeps.room._workers", lambda *asked: 12)
    assert taken(Runtime.model_validate(runtime), WHOLE) == room


def test_four_cells_share_a_gpu() -> None:
    free, cells = WHOLE, 0
    one = taken(Runtime.model_validate({"executor": "inline", "num_gpus": 0.25}), WHOLE)
    while free.holds(one):
        free, cells = free.without(one), cells + 1
    assert cells == 4


ONE, TWO = Room(1), Room(2)


@pytest.mark.parametrize(
    ("cells", "whole", "most", "wall", "at_once"),
    [
        ([], TWO, 4, 0.0, 0),
        ([(ONE, 3.0)], TWO, 4, 3.0, 1),
        ([(ONE, 3.0), (ONE, 1.0), (ONE, 1.0), (ONE, 1.0)], TWO, 4, 3.0, 2),  # three beside the long one
        ([(ONE, 1.0), (ONE, 1.0), (ONE, 1.0), (ONE, 3.0)], TWO, 4, 4.0, 2),  # which begins at 1 if it is last
        ([(ONE, 3.0), (TWO, 1.0), (ONE, 2.0)], TWO, 4, 6.0, 1),  # nobody overtakes who waits for room
        ([(ONE, 1.0)] * 6, Room(4), 2, 3.0, 2),
        ([(Room(1, 0.5), 1.0)] * 4, WHOLE, 4, 2.0, 2),  # two share the GPU
    ],
)
def test_how_long_cells_take_that_take_turns(
    cells: list[tuple[Room, float]], whole: Room, most: int, wall: float, at_once: int
) -> None:
    assert turns(cells, whole, most) == (wall, at_once)
