"""Scenarios with several tasks: what they mean, what is refused, and where it is told."""

from __future__ import annotations

import copy
import tomllib
from typing import Any

import pytest

from fedlab.errors import ScenarioError, UnknownName
from fedlab.scenario import json_schema, load, resolved_toml

TWO: dict[str, Any] = {
    "schema": 1,
    "tasks": [
        {"label": "easy", "dataset": "digits", "model": "softmax", "target": {"accuracy": 0.8}},
        {
            "label": "hard",
            "dataset": "digits",
            "model": {"name": "mlp", "width": 8},
            "batch_size": 3,
            "local_steps": 2,
            "partition": {"name": "dirichlet", "alpha": 0.5},
        },
    ],
    "clients": {"count": 5, "learning_rate": 0.2},
    "strategy": {"name": "sync-st", "rounds": 3},
}


def changed(**tables: Any) -> dict[str, Any]:
    return copy.deepcopy(TWO) | tables


def problems(data: dict[str, Any], *overrides: str) -> dict[str, str]:
    with pytest.raises(ScenarioError) as told:
        load(data, overrides)
    return {problem.place: problem.message for problem in told.value.problems}


def test_a_task_alone_is_a_scenario_of_its_own() -> None:
    scenario = load(TWO)
    hard = scenario.alone("hard")
    assert hard.tasks == () and hard.task.model.params == {"width": 8}
    assert (hard.clients.batch_size, hard.clients.local_steps, hard.clients.learning_rate) == (3, 2, 0.2)
    assert hard.clients.partition.name == "dirichlet" and scenario.clients.partition.name == "iid"
    assert scenario.alone("easy").clients == scenario.clients
    with pytest.raises(UnknownName, match="easy"):
        scenario.alone("esy")


def test_the_resolved_scenario_is_the_same_again() -> None:
    for data in (TWO, {"schema": 1, "task": {"dataset": "digits", "model": "mlp"}}):
        scenario = load(data)
        again = tomllib.loads(resolved_toml(scenario))
        assert load(again) == scenario
        assert ("task" in again) != ("tasks" in again)


def test_a_key_of_one_task_can_be_set() -> None:
    found = load(
        TWO, ["tasks.hard.model.width=16", "tasks.easy.target.accuracy=0.5", "tasks.1.partition.alpha=2.0"]
    )
    assert found.tasks[1].model.params == {"width": 16}
    assert found.tasks[0].target is not None and found.tasks[0].target.accuracy == 0.5
    assert found.tasks[1].partition is not None and found.tasks[1].partition.params == {"alpha": 2.0}


def test_every_task_is_tried_as_if_it_were_the_only_one() -> None:
    data = changed()
    data["tasks"][0]["model"] = "sofmax"
    data["tasks"][1]["model"] = {"name": "mlp", "widht": 3}
    data["tasks"][1]["partition"]["alpha"] = -1.0
    found = problems(data)
    assert 'Did you mean "softmax"' in found["tasks.0.model"]
    assert 'Did you mean "width"' in found["tasks.1.model.widht"]
    assert found["tasks.1.partition.alpha"].startswith("got -1.0; expected")
    assert set(found) == {"tasks.0.model", "tasks.1.model.widht", "tasks.1.partition.alpha"}


def test_a_mistake_that_tasks_share_is_told_once_and_where_it_stands() -> None:
    assert set(problems(changed(clients={"count": 5, "partition": "natral"}))) == {"clients.partition"}


@pytest.mark.parametrize(
    ("tables", "where", "told"),
    [
        ({"task": {"dataset": "digits", "model": "mlp"}}, "tasks", "task and tasks are both given"),
        ({"tasks": []}, "task", "missing; expected a table"),
        (
            {"strategy": {"name": "fedbuff"}},
            "strategy.name",
            "fedbuff trains one model; expected, for several",
        ),
        (
            {"strategy": {}},
            "strategy.name",
            "fedavg trains one model; expected, for several tasks, fedast or",
        ),
        (
            {"attacks": [{"name": "linear-layer"}]},
            "attacks",
            "attacks on several tasks are not supported yet; run",
        ),
        ({"adversaries": [{"name": "sign-flip", "fraction": 0.2}]}, "adversaries", "run each task alone"),
        (
            {"defenses": [{"name": "none"}, {"name": "dp-sgd", "noise_multiplier": 1.0}]},
            "defenses.1",
            "defenses on several tasks",
        ),
        ({"audit": {"include_samples": True}}, "audit.include_samples", "audits on several tasks"),
        (
            {"clients": {"local_epochs": 2, "stragglers": {}}},
            "clients.stragglers",
            "stragglers on several tasks",
        ),
        (
            {"strategies": [{"name": "sync-st"}, {"label": "x"}, {"name": "gba"}]},
            "strategies.2.name",
            "gba trains",
        ),
    ],
)
def test_what_needs_one_model_is_refused(tables: dict[str, Any], where: str, told: str) -> None:
    assert told in problems(changed(**tables))[where]


def test_labels_differ_and_a_target_is_one_figure() -> None:
    data = changed()
    data["tasks"][1] |= {"label": "easy", "target": {"accuracy": 0.9, "loss": 0.1}}
    found = problems(data)
    assert 'already one labelled "easy"' in found["tasks.1"]
    assert found["tasks.1.target"] == "expected either an accuracy or a loss"
    data["tasks"][1]["target"] = {}
    assert "tasks.1.target" in problems(data)


def test_what_is_malformed_is_told_in_words() -> None:
    found = problems(
        changed(tasks=[{"label": "a", "dataset": 3, "model": "mlp"}, {"model": "mlp", "steps": 1}, 7])
    )
    assert found["tasks.0.dataset"].startswith("got 3; expected a name")
    assert found["tasks.1.label"].startswith("missing") and found["tasks.1.dataset"].startswith("missing")
    assert found["tasks.1.steps"].startswith("unknown key") and found["tasks.2"].startswith("got 7")
    assert not any(where.startswith("task.") for where in found), "what stands for all is told of nowhere"


def test_the_json_schema_names_the_plugins_of_a_task() -> None:
    schema = json_schema()
    assert "task" not in schema["required"]
    properties = schema["$defs"]["NamedTask"]["properties"]
    assert "digits" in properties["dataset"]["anyOf"][0]["enum"]
    assert "dirichlet" in properties["partition"]["anyOf"][0]["enum"]
