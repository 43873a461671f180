"""Runs of several tasks: the same bits wherever they run and whenever they are killed; what they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import fedlab
from fedlab.errors import UsageError
from fedlab.experiment.milestones import met
from fedlab.experiment.setup import set_up
from fedlab.experiment.several import Measured, TaskMilestones
from fedlab.scenario import load
from fedlab.scenario.strategy import Target
from tests.experiment import crashes

SCENARIO: dict[str, Any] = {
    "schema": 1,
    "seed": 5,
    "name": "several",
    "tasks": [
        {"label": "easy", "dataset": "digits", "model": "softmax", "target": {"loss": 2.24}},
        {
            "label": "hard",
            "dataset": {"name": "digits", "split_seed": 1},
            "model": {"name": "mlp", "width": 10, "depth": 1, "dropout": 0.2},
            "batch_size": 4,
            "local_steps": 3,
            "learning_rate": 0.3,
            "partition": {"name": "dirichlet", "alpha": 0.5},
            "target": {"accuracy": 0.1},
        },
        {"label": "endless", "dataset": {"name": "synthetic", "users": 10}, "model": "softmax"},
    ],
    "clients": {"count": 10, "batch_size": 8, "local_steps": 2},
    "strategy": {"rounds": 10, "evaluate_every": 1},
    "strategies": [
        {"label": "sync", "name": "sync-st", "rounds": 4, "cohort": 6, "over_selection": 1.5},
        {
            "label": "dynamic",
            "name": "fedast",
            "cohort": 2,
            "options": {"concurrency": 12, "allocation": "dynamic"},
            "server_optimizer": {"momentum": 0.5},
        },
    ],
    "devices": {"time": {"name": "exponential", "minimum": 1.0}, "dropout": 0.1},
    "checkpoint": {"every": 3},
    "runtime": {"executor": "inline"},
}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        crashes.quick_plugins(patch)
        yield


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A run, and its directory at each moment at which it might have been killed."""
    folder = tmp_path_factory.mktemp("several")
    out = folder / "run"
    return out, crashes.moments(lambda: fedlab.run(SCENARIO, out=out), out, folder)


def metrics(out: Path) -> dict[str, Any]:
    cells: dict[str, Any] = json.loads((out / "metrics.json").read_text())["cells"]
    return cells


def test_metrics_tell_of_each_task_and_when_it_met_its_target(killed: tuple[Path, list[Path]]) -> None:
    found = metrics(killed[0])
    assert list(found) == ["sync-none-train-s5", "dynamic-none-train-s5"]
    for cell in found.values():
        rows = {row["label"]: row for row in cell["tasks"]}
        assert rows["easy"]["target"] == {"loss": 2.24} and rows["endless"]["target"] is None
        last = cell["rounds"][-1]
        assert cell["accuracy"] == sum(row["accuracy"] for row in rows.values()) / 3 == last["accuracy"]
        for label in ("easy", "hard"):
            reached = rows[label]["reached"]
            row = next(one for one in cell["rounds"] if one["round"] == reached["round"])
            before = [one for one in cell["rounds"] if one["round"] < reached["round"]]
            target = load(SCENARIO).tasks[("easy", "hard").index(label)].target
            assert met(target, row["tasks"][label]) and reached["seconds"] == row["seconds"]
            assert not any(met(target, one["tasks"][label]) for one in before)
        assert rows["endless"]["reached"] is None and cell["reached"] is None, "one has no target"
        assert len(cell["per_client"]) == 10 and cell["schedule"]["name"] in ("sync-st", "fedast")


def test_a_finished_tasks_model_stays_as_it_is(killed: tuple[Path, list[Path]]) -> None:
    for cell in metrics(killed[0]).values():
        rows = {row["label"]: row for row in cell["tasks"]}
        for label in ("easy", "hard"):
            after = [one for one in cell["rounds"] if one["round"] >= rows[label]["reached"]["round"]]
            assert len(after) > 1 and len({one["tasks"][label]["loss"] for one in after}) == 1


def test_a_model_file_holds_all_tasks_by_their_labels(killed: tuple[Path, list[Path]]) -> None:
    state = load_file(killed[0] / "models" / "dynamic-none-train-s5" / "model.safetensors")
    assert {name.partition("/")[0] for name in state} == {"easy", "hard", "endless"}
    assert len([name for name in state if name.startswith("hard/")]) == 4


def test_requests_of_a_finished_task_go_to_the_others(killed: tuple[Path, list[Path]]) -> None:
    allocations = metrics(killed[0])["dynamic-none-train-s5"]["schedule"]["allocations"]
    assert all(sum(held for _, held in due) == 12 for _, due in allocations)
    assert dict(allocations[-1][1]) == {"easy": 0, "hard": 0, "endless": 12}


def test_a_kill_at_any_moment_loses_no_bit(killed: tuple[Path, list[Path]]) -> None:
    out, copies = killed
    whole = crashes.result(out)
    buffered = [copy for copy in copies if list(copy.glob("checkpoints/dynamic-*/round-*"))]
    assert len(buffered) > 6
    for copy in [copies[len(copies) // 4], *buffered[:: len(buffered) // 3]]:
        fedlab.resume(copy)
        assert crashes.result(copy) == whole, copy


def test_tasks_draw_from_branches_of_their_own() -> None:
    """Two tasks that differ in their labels alone begin with other weights; records are divided alike."""
    twins = [{"label": label, "dataset": "digits", "model": "mlp"} for label in ("one", "other")]
    setup = set_up(load(SCENARIO | {"tasks": twins}))
    parts = setup.parts(setup.cells[0])
    state = parts.state()
    weights = [name.removeprefix("one/") for name in state if name.startswith("one/") and "weight" in name]
    assert weights and not any((state[f"one/{name}"] == state[f"other/{name}"]).any() for name in weights)
    one, other = (parts.tasks[label].owners for label in ("one", "other"))
    assert all((mine == theirs).all() for mine, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("personal-head", "leaves a part of the model with the clients"),
        ("scaffold", "must know which of a client's updates counted"),
    ],
)
def test_rules_that_need_one_server_are_refused(tmp_path: Path, rule: str, told: str) -> None:
    changed = [one | {"local_rule": rule} for one in SCENARIO["strategies"]]
    with pytest.raises(UsageError, match=told):
        fedlab.run(SCENARIO | {"strategies": changed}, out=tmp_path / "run")


def test_training_ends_with_the_last_target() -> None:
    settings = load(SCENARIO).strategy
    stones = TaskMilestones(settings, {"a": Target(accuracy=0.5), "b": Target(loss=1.0)})
    rows = [
        {"round": n, "accuracy": 0.0, "loss": 1.0, "seconds": float(n), "tasks": {"a": a, "b": b}}
        for n, a, b in [
            (1, {"accuracy": 0.4, "loss": 2.0}, {"accuracy": 0.1, "loss": None}),
            (2, {"accuracy": 0.6, "loss": 2.0}, {"accuracy": 0.9, "loss": 1.1}),
            (3, {"accuracy": 0.3, "loss": 2.0}, {"accuracy": 0.1, "loss": 0.9}),
        ]
    ]
    for row in rows:
        assert stones.over(0.0) == ""
        stones.add(row)
    assert [(label, cost["round"]) for label, cost in stones.met.items()] == [("a", 2), ("b", 3)]
    assert stones.over(0.0) == "the last of 2 targets was met in round 3"
    again = TaskMilestones(settings, stones.targets)
    again.restore(stones.snapshot())
    measured = Measured(1.0, 0.0, [], rows[-1]["tasks"])
    assert again.rows(measured) == stones.rows(measured) and again.over(0.0) == stones.over(0.0)
