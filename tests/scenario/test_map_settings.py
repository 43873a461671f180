"""`[map]`: which points it has, in which order, and every mistake of it at once."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from fedlab.errors import ScenarioError
from fedlab.scenario import json_schema, load, resolved_toml
from fedlab.scenario.points import Point, axes, points, value_at

ATTACKS = [{"name": "inverting"}, {"name": "inverting", "label": "longer", "iterations": 200}]


def scenario(
    turned: dict[str, list[Any]], settings: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    base: dict[str, Any] = {
        "schema": 1,
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 8}},
        "clients": {"batch_size": 2, "mode": ["eval", "train"]},
        "attacks": ATTACKS,
        "map": {"axes": turned, **(settings or {})},
    }
    return base | more


def told(given: dict[str, Any]) -> dict[str, str]:
    """Place -> message of every problem."""
    with pytest.raises(ScenarioError) as caught:
        load(given)
    return {problem.place: problem.message for problem in caught.value.problems}


def names(given: dict[str, Any]) -> list[str]:
    return [point.name for point in points(load(given))]


def test_one_setting_at_a_time_in_the_order_of_the_axes() -> None:
    turned = {"task.model.width": [4, 8, 16], "task.model.norm": ["none", "batch"], "clients.batch_size": [1]}
    assert names(scenario(turned)) == [
        "base",
        "task.model.width=4",
        "task.model.width=16",
        'task.model.norm="batch"',
        "clients.batch_size=1",
    ]


def test_a_grid_has_every_combination_once() -> None:
    turned = {"task.model.width": [4, 8, 16], "task.model.norm": ["none", "batch"], "clients.batch_size": [1]}
    found = names(scenario(turned, {"design": "grid"}))
    assert len(found) == len(set(found)) == 3 * 2 * 2 and found[0] == "base"
    assert found[1:3] == ["clients.batch_size=1", 'task.model.norm="batch"']
    assert 'task.model.width=16, task.model.norm="batch", clients.batch_size=1' in found


def test_the_base_is_on_every_axis_and_first_unless_it_is_listed() -> None:
    turned = {"task.model.width": [4, 8, 16], "clients.batch_size": [1, 4], "task.model.dropout": [0.5, 0.0]}
    found = {axis.key: (axis.values, axis.base) for axis in axes(load(scenario(turned)))}
    assert found == {
        "task.model.width": ((4, 8, 16), 8),
        "clients.batch_size": ((2, 1, 4), 2),
        "task.model.dropout": ((0.5, 0.0), 0.0),  # the network's own default
    }


def test_what_the_scenario_has_at_a_key() -> None:
    found = load(scenario({"clients.batch_size": [1]}))
    keys = ("clients.batch_size", "clients.local_steps", "task.model.norm", "task.model.width", "task.model")
    assert [value_at(found, key) for key in keys] == [2, None, "none", 8, {"name": "mlp", "width": 8}]


def test_a_point_is_the_scenario_with_that_setting_and_nothing_else() -> None:
    given = load(scenario({"clients.local_steps": [3]}, audit={"include_samples": True, "victims": 2}))
    there = points(given)[1].of(given)
    assert there.clients.local_steps == 3 and there.map is None and not there.audit.include_samples
    changed = {"clients", "map", "audit"}
    assert there.model_dump(exclude=changed) == given.model_dump(exclude=changed)
    assert there.clients.model_dump(exclude={"local_steps"}) == given.clients.model_dump(
        exclude={"local_steps"}
    )


def test_a_whole_network_can_be_an_axis() -> None:
    given = load(scenario({"task.model": ["mlp", {"name": "mlp", "norm": "batch"}]}))
    found = points(given)
    assert [point.name for point in found[1:]] == [
        'task.model="mlp"',
        'task.model={"name" = "mlp", "norm" = "batch"}',
    ]
    assert found[2].of(given).task.model.params == {"norm": "batch"}


def test_all_mistakes_are_told_at_once() -> None:
    turned = {
        "task.model.width": [4, "wide", 4],
        "task.model.wdth": [1],
        "task.model.norm": ["group"],
        "clients.batch_size": [-1],
        "clients.mode": ["eval"],
        "clients.count": [3],
        "strategy.rounds": [2],
    }
    found = told(
        scenario(
            turned,
            {"basin": [0.5, 1.5], "basin_attack": "shorter"},
            defenses=[{"name": "none"}, {"name": "none", "label": "b"}],
        )
    )
    assert set(found) == {
        "map",
        "map.basin.1",
        "map.basin_attack",
        "map.axes.task.model.width.1",
        "map.axes.task.model.width.2",
        "map.axes.task.model.wdth",
        "map.axes.task.model.norm.0",
        "map.axes.clients.batch_size.0",
        "map.axes.clients.mode",
        "map.axes.clients.count",
        "map.axes.strategy.rounds",
    }
    assert found["map.axes.task.model.width.1"] == 'got "wide"; expected an integer'
    assert found["map.axes.task.model.width.2"] == "4 is given twice; expected each once"
    assert 'Did you mean "width"?' in found["map.axes.task.model.wdth"]
    assert "inverting, longer" in found["map.basin_attack"] and "one defense" in found["map"]


def test_an_axis_without_values_is_told_in_plain_words() -> None:
    messages = told(scenario({"clients.batch_size": []}))
    assert messages == {"map.axes.clients.batch_size": "got []; expected a non-empty list"}


def test_a_value_is_blamed_only_for_what_it_brings() -> None:
    given = scenario({"clients.batch_size": [1, 4]}, strategy={"cohort": 99})
    assert set(told(given)) == {"strategy.cohort"}


def test_a_map_needs_an_attack_and_an_axis() -> None:
    assert "at least one" in told(scenario({"clients.batch_size": [1]}, attacks=[]))["map"]
    assert set(told(scenario({}))) == {"map.axes"}


def test_a_network_from_python_keeps_its_knobs_to_itself() -> None:
    own = {"dataset": "digits", "model": {"name": "own"}}
    found = told(scenario({"task.model.width": [1], "clients.batch_size": [1]}, task=own))
    assert "comes from Python" in found["map.axes.task.model.width"]
    assert "map.axes.clients.batch_size" not in found


def test_a_resolved_map_is_the_same_map() -> None:
    turned = {"task.model.width": [4, 16], "task.model": [{"name": "mlp", "norm": "batch"}]}
    found = load(scenario(turned, {"basin": [0.0, 0.5], "design": "grid"}))
    assert load(tomllib.loads(resolved_toml(found))) == found
    assert "map" in json_schema()["properties"] and Point().name == "base"
