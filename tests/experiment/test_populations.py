"""Runs among 10⁸ clients cost what the clients cost who train."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedlab
from fedlab.adversaries import Group, Recruits, groups, poison
from fedlab.adversaries.data import LabelFlip
from fedlab.adversaries.updates import SignFlip
from fedlab.clients import ClientConfig, Federation
from fedlab.errors import ScenarioError, UsageError
from fedlab.experiment import evaluation
from fedlab.experiment.setup import set_up
from fedlab.experiment.world import simulation
from fedlab.runtime import InlineExecutor
from fedlab.runtime.arrays import array_record
from fedlab.scenario import load
from fedlab.seeds import numpy_generator
from fedlab.strategies.rounds import rounds
from fedlab.tasks import LazyOwners, Task
from fedlab.tasks.datasets.gaussians import gaussians
from fedlab.tasks.models.softmax import softmax
from fedlab.tasks.population import Sizes, drawn, sizes

COUNT = 10**8


def scenario(clients: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    drawing = {"name": "drawn", "alpha": 0.5}
    base: dict[str, Any] = {
        "schema": 1,
        "seed": 2,
        "name": "fleet",
        "task": {"dataset": {"name": "gaussians", "test_records": 200}, "model": "softmax"},
        "clients": {"count": COUNT, "partition": drawing, "learning_rate": 0.05} | (clients or {}),
        "strategy": {"rounds": 4, "cohort": 5, "evaluate_every": 2, "over_selection": 1.4},
        "devices": {"time": {"name": "half-normal"}, "per_example": 0.1},
        "runtime": {"executor": "inline"},
        "audit": {"rounds": [1], "victims": 1},
    }
    return base | changes


def metrics(out: Path) -> dict[str, Any]:
    (cell,) = json.loads((out / "metrics.json").read_text())["cells"].values()
    found: dict[str, Any] = cell
    return found


def test_a_hundred_million_clients_train_from_scenario_to_report(tmp_path: Path) -> None:
    fedlab.run(scenario(), out=tmp_path / "run")
    found = metrics(tmp_path / "run")
    assert found["failures"] == 0 and found["asked"] == 28 and found["virtual_seconds"] > 0
    assert found["population"] == COUNT and found["per_client_of"] == "took part"
    owners = set_up(load(scenario())).owners[2]
    rows = found["per_client"]
    assert 26 <= len(rows) <= 28 and all(row["records"] == len(owners[row["client"]]) for row in rows)
    data = json.loads((tmp_path / "run" / "manifest.json").read_text())["dataset"]
    assert data["generated"] and data["train"] is None
    limits = json.loads((tmp_path / "run" / "report.json").read_text())["limits"]
    assert any("clients who took part, of 100,000,000" in text for text in limits)
    assert not any("one pool" in text for text in limits)


def test_the_report_says_that_clients_share_a_pool(tmp_path: Path) -> None:
    task = {"dataset": {"name": "gaussians", "records": 500, "test_records": 50}, "model": "softmax"}
    fedlab.run(scenario({"count": 20}, task=task), out=tmp_path / "run")
    found = metrics(tmp_path / "run")
    assert found["per_client_of"] == "all" and len(found["per_client"]) == found["population"] == 20
    limits = json.loads((tmp_path / "run" / "report.json").read_text())["limits"]
    assert any("Clients drew their records from one pool" in text for text in limits)


def test_training_takes_the_same_memory_among_ten_thousand_and_a_hundred_million() -> None:
    def peak(clients: int) -> int:
        settings = load(scenario({"count": clients}))
        tracemalloc.start()
        setup = set_up(settings)
        cell = setup.cells[0]
        parts = setup.parts(cell)
        grid = simulation(cell, settings, parts, setup.owners[cell.seed], InlineExecutor())
        start = array_record(parts.model.state())
        done = [one for one in rounds(parts.strategy, grid, start, first=1, last=3) if one.updated]
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(done) == 3
        return found

    peak(10)  # what is imported and compiled on the way
    few, many = peak(10**4), peak(COUNT)
    assert abs(many - few) < 0.1 * few


def test_what_workers_are_sent_does_not_grow_with_the_population() -> None:
    setup = set_up(load(scenario()))
    parts = setup.parts(setup.cells[0])
    assert len(pickle.dumps((parts.task.train, parts.owners))) < 10_000


def test_a_federation_knows_the_sizes_that_may_be() -> None:
    owners = drawn(gaussians(test_records=1)[0], COUNT, generator=numpy_generator(0), least=5, most=9)
    federation = Federation(sizes(owners), 1, ClientConfig())
    assert list(federation.sizes) == [5, 6, 7, 8, 9] and len(federation.records) == COUNT
    assert sorted(Federation((3, 8, 3), 1, ClientConfig()).sizes) == [3, 8]


def test_more_clients_than_records_are_still_refused_where_all_are_listed() -> None:
    with pytest.raises(ScenarioError, match="partition drawn"):
        load(scenario({"partition": "iid", "count": 2000}, task={"dataset": "digits", "model": "softmax"}))
    with pytest.raises(ScenarioError, match="made when they are asked for"):
        load(scenario({"partition": "iid"}))
    with pytest.raises(ScenarioError, match="expected at most 1"):
        load(scenario({"partition": {"name": "drawn", "least": 1, "most": 1, "median": 2.0} | {"least": 2}}))


class Pairs(LazyOwners):
    def __init__(self, count: int, last: list[int]) -> None:
        super().__init__(count, 2, 2)
        self.last = last

    def records(self, client: int) -> np.ndarray:
        return np.array(self.last if client == len(self) - 1 else [client % 50, client % 50 + 1])


def own_task(owners: LazyOwners) -> Task:
    train, test = gaussians(records=60, test_records=20)
    return Task(train, test, lambda: softmax(train.shape, 10), owners=owners)


def test_a_task_may_bring_a_population_of_its_own(tmp_path: Path) -> None:
    task = {"dataset": "own", "model": "own"}
    changed = scenario({"partition": "iid"}, task=task)
    fedlab.run(changed, task=own_task(Pairs(COUNT, [3, 4])), out=tmp_path / "run")
    assert {row["records"] for row in metrics(tmp_path / "run")["per_client"]} == {2}
    for last, words in (([60, 1], "ids from 1 to 60; expected 0 to 59"), ([3, 3], "a record twice")):
        with pytest.raises(UsageError, match=f"owners of client 99999999: {words}"):
            fedlab.run(changed, task=own_task(Pairs(COUNT, last)), out=tmp_path / "no")
    with pytest.raises(UsageError, match="the task brings 7 clients"):
        fedlab.run(changed, task=own_task(Pairs(7, [1, 2])), out=tmp_path / "no")


def test_personal_models_of_many_clients_are_those_of_whoever_took_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "TOLD", 50)
    strategy = {"rounds": 2, "cohort": 3, "local_rule": "personal-head"}
    task = {"dataset": {"name": "gaussians", "test_records": 50}, "model": {"name": "mlp", "width": [4]}}
    fedlab.run(scenario({"count": 10**6}, strategy=strategy, task=task), out=tmp_path / "run")
    found = metrics(tmp_path / "run")
    assert found["personal"] and 0 < len(found["per_client"]) <= 6
    assert all(row["accuracy"] is not None for row in found["per_client"])


def test_of_many_clients_the_first_who_took_part_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "TOLD", 3)
    assert list(evaluation.told(3, {1})) == [0, 1, 2]
    assert list(evaluation.told(4, {9, 1, 5, 7})) == [1, 5, 7]


def test_adversaries_among_a_hundred_million_are_named() -> None:
    named = Recruits("flip", SignFlip(), clients=(COUNT - 1, 3))
    assert groups([named], COUNT, 0)[0].clients == (3, COUNT - 1)
    with pytest.raises(UsageError, match="a fraction of 100000000 clients cannot be drawn"):
        groups([named, Recruits("few", SignFlip(), fraction=1e-7)], COUNT, 0)


def test_few_may_poison_their_records_in_a_population_that_is_not_listed() -> None:
    pool, test = gaussians(records=500, test_records=20)
    owners = drawn(pool, COUNT, generator=numpy_generator(0))
    liars = [Group("flip", LabelFlip(), (5, 10**7))]
    task, mine = poison(Task(pool, test, lambda: softmax(pool.shape, 10)), owners, liars, 0)
    assert isinstance(mine, LazyOwners) and isinstance(sizes(mine), Sizes) and len(mine) == COUNT
    for client in (5, 10**7):
        assert torch.equal(task.train.images(mine[client]), pool.images(owners[client]))
        assert torch.equal(task.train.labels(mine[client]), 9 - pool.labels(owners[client]))
        assert mine.size(client) == len(mine[client])
    assert mine[6].tolist() == owners[6].tolist()
    own = gaussians(test_records=20)[0]
    with pytest.raises(
        UsageError, match="gaussians are made when they are asked for, and cannot be poisoned"
    ):
        poison(Task(own, test, lambda: softmax(own.shape, 10)), owners, liars, 0)
