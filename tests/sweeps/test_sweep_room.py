"""What a cell takes of the machine."""

from __future__ import annotations

from typing import Any

import pytest

from fedlab.scenario.schema import Runtime
from fedlab.sweeps.room import Room, taken

WHOLE = Room(8, 1.0)


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
        ({"workers": "auto", "address": "auto"}, Room(1)),
        ({"executor": "inline", "num_gpus": 0.25}, Room(1, 0.25)),
        ({"workers": 2, "num_gpus": 1.0}, Room(2, 1.0)),
    ],
)
def test_what_a_cell_takes(runtime: dict[str, Any], room: Room) -> None:
    assert taken(Runtime.model_validate(runtime), WHOLE) == room


def test_four_cells_share_a_gpu() -> None:
    free, cells = WHOLE, 0
    one = taken(Runtime.model_validate({"executor": "inline", "num_gpus": 0.25}), WHOLE)
    while free.holds(one):
        free, cells = free.without(one), cells + 1
    assert cells == 4
