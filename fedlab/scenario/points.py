"""The points of a `[map]`: the scenario, and what it becomes when its settings are turned."""

from __future__ import annotations

import functools
import itertools
import operator
from dataclasses import dataclass, field
from typing import Any

from fedlab.scenario.loading import load
from fedlab.scenario.map_rules import assignment, same
from fedlab.scenario.plugged import parameters_at
from fedlab.scenario.schema import Scenario

BASE = "base"
"""What the point is called at which nothing is turned."""


@dataclass(frozen=True)
class Point:
    """One setting of a map: `overrides` are the keys that differ from the scenario, with their values."""

    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`task.model.norm="batch"`, or "base"; no other point of the map has it."""
        return ", ".join(assignment(key, value) for key, value in self.overrides.items()) or BASE

    def of(self, scenario: Scenario) -> Scenario:
        """The scenario at this point: without a map, without keeping pictures, and under `[threat]` alone.

        Raises:
            ScenarioError: the values are sound one by one and not together.
        """
        audit = scenario.audit.model_copy(update={"include_samples": False})
        plain = scenario.model_copy(update={"map": None, "threats": (), "audit": audit})
        return load(plain, [assignment(key, value) for key, value in self.overrides.items()])


@dataclass(frozen=True)
class Axis:
    """One setting that is turned: its key, its values in the order of the scenario, and the base's own."""

    key: str
    values: tuple[Any, ...]
    base: Any

    @property
    def points(self) -> list[Point]:
        """With nothing else turned, one for each value."""
        return [Point({} if same(value, self.base) else {self.key: value}) for value in self.values]


def axes(scenario: Scenario) -> list[Axis]:
    """Of the scenario's map, each with the base's value, first unless it is listed."""
    found = []
    for key, values in (scenario.map.axes if scenario.map else {}).items():
        base = value_at(scenario, key)
        listed = any(same(base, value) for value in values)
        found.append(Axis(key, values if listed else (base, *values), base))
    return found


def points(scenario: Scenario) -> list[Point]:
    """The base first, then in the order of the axes and their values."""
    turned = [[{}, *(point.overrides for point in axis.points if point.overrides)] for axis in axes(scenario)]
    if scenario.map and scenario.map.design == "grid":
        return [Point(functools.reduce(operator.or_, chosen)) for chosen in itertools.product(*turned)]
    return [Point(), *(Point(one) for along in turned for one in along if one)]


def value_at(scenario: Scenario, key: str) -> Any:
    """What the scenario has at a key of `[task.model]` or `[clients]`; the network's default where it says
    nothing, None where there is none."""
    here: Any = scenario.model_dump(mode="json", by_alias=True)
    path = tuple(key.split("."))
    for part in path:
        if not isinstance(here, dict):
            return None
        if part not in here and "name" in here:
            return {one.name: one.default for one in parameters_at(path, here["name"])}.get(part)
        here = here.get(part)
    return here
