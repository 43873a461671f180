"""Parts of the algorithm as objects from Python, and Flower strategies as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, Strategy

import fedlab
from fedlab import plugins
from fedlab.clients import LocalRule
from fedlab.clients.rules.fedprox import FedProx
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import Interrupted, PluginError, UsageError
from fedlab.progress import Progress
from fedlab.strategies import Composition, Learner, Synchronous
from fedlab.strategies.server_optimizers import SGD

SCENARIO: dict[str, Any] = {
    "schema": 1,
    "name": "own",
    "task": {"dataset": "digits", "model": {"name": "mlp", "width": 8, "depth": 1}},
    "clients": {"count": 4, "batch_size": 32, "local_steps": 2},
    "strategy": {"rounds": 4},
    "runtime": {"executor": "inline"},
}


def scenario(**strategy: Any) -> dict[str, Any]:
    return SCENARIO | {"strategy": {"rounds": 4, **strategy}}


def weights(report: Any) -> str:
    found: dict[str, str] = json.loads((report.directory / "manifest.json").read_text())["weights_sha256"]
    return found["none"]


def manifest(path: Path) -> Any:
    return json.loads((path / "manifest.json").read_text())


def test_objects_give_the_bits_of_the_same_parts_by_name(tmp_path: Path) -> None:
    table = scenario(
        local_rule={"name": "fedprox", "mu": 0.5}, server_optimizer={"name": "sgd", "learning_rate": 0.5}
    )
    by_name = fedlab.run(table, out=tmp_path / "name")
    given = fedlab.run(
        scenario(),
        out=tmp_path / "objects",
        local_rule=FedProx(mu=0.5),
        server_optimizer=SGD(learning_rate=0.5),
    )
    plain = fedlab.run(scenario(), out=tmp_path / "plain")
    assert weights(by_name) == weights(given) != weights(plain)
    assert manifest(tmp_path / "objects")["objects"] == {"local_rule": "FedProx", "server_optimizer": "SGD"}


def test_a_flower_strategy_runs_as_an_instance_a_class_and_a_function(tmp_path: Path) -> None:
    """Without arguments flwr's FedAvg and its subclass start from the same defaults."""
    instance = FedAvg(fraction_evaluate=0.0)
    reports = [
        fedlab.run(scenario(), out=tmp_path / str(i), strategy=one)
        for i, one in enumerate((instance, FedAvg, lambda: FedAvg(fraction_evaluate=0.0)))
    ]
    assert len({weights(report) for report in reports}) == 1
    assert manifest(tmp_path / "1")["objects"] == {"strategy": "FedAvg"}
    assert "FedAvg (passed from Python)" in reports[1].html.read_text()


def test_each_cell_gets_its_own_copy_of_an_instance(tmp_path: Path) -> None:
    """FedAdam remembers moments; a second cell that found those of the first would end elsewhere."""
    both = fedlab.run(SCENARIO | {"seeds": [1, 2]}, out=tmp_path / "both", strategy=FedAdam(eta=0.01))
    second = fedlab.run(SCENARIO | {"seed": 2}, out=tmp_path / "second", strategy=FedAdam(eta=0.01))
    cells = {one["name"]: one["weights_sha256"] for one in manifest(both.directory)["cells"]}
    assert cells["none-train-s2"] == manifest(second.directory)["cells"][0]["weights_sha256"]


def test_a_function_with_arguments_gets_the_parts_of_a_composition(tmp_path: Path) -> None:
    def mine(*, aggregator: Any, optimizer: Any, cohort: int, seed: int, parameters: list[str]) -> Strategy:
        return Composition(Learner(aggregator, optimizer, parameters, seed), Synchronous(cohort, seed))

    given = fedlab.run(scenario(), out=tmp_path / "given", strategy=mine)
    assert weights(given) == weights(fedlab.run(scenario(), out=tmp_path / "plain"))


def test_a_flower_class_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = plugins.load

    def found(kind: str, name: str) -> Any:
        return FedMedian if (kind, name) == ("strategies", "fed-median") else load(kind, name)

    monkeypatch.setattr(plugins, "load", found)
    monkeypatch.setattr(plugins, "provider", lambda kind, name: "somewhere")
    named = fedlab.run(scenario(name="fed-median"), out=tmp_path / "named")
    assert weights(named) == weights(fedlab.run(scenario(), out=tmp_path / "given", strategy=FedMedian))


class Stop(Progress):
    """Presses Ctrl-C in a round."""

    def advance(self, name: str, done: int, note: str = "") -> None:
        if name.startswith("train") and done == 2:
            raise KeyboardInterrupt


def test_a_flower_strategy_resumes_from_the_start_of_its_cell_to_the_same_bits(tmp_path: Path) -> None:
    strategy = FedAdam(eta=0.01)
    with pytest.raises(Interrupted):
        fedlab.run(scenario(), out=tmp_path / "cut", strategy=strategy, progress=Stop())
    with pytest.raises(UsageError, match=r"strategy of this run \(FedAdam\) came from Python"):
        fedlab.resume(tmp_path / "cut")
    again = fedlab.resume(tmp_path / "cut", strategy=strategy)
    assert weights(again) == weights(fedlab.run(scenario(), out=tmp_path / "whole", strategy=strategy))


@pytest.mark.parametrize(
    ("table", "given", "error", "told"),
    [
        ({}, {"local_rule": 3}, UsageError, "local_rule is a int; expected"),
        ({}, {"server_optimizer": object()}, UsageError, r"expected an object with step\(delta, state\)"),
        ({}, {"strategy": 7}, UsageError, "strategy is a int; expected a Flower Strategy"),
        ({}, {"strategy": Path}, PluginError, "the strategy Path made a PosixPath; expected"),
        ({}, {"strategy": FedAvg, "aggregator": lambda d, w: d.mean(0)}, UsageError, "takes no aggregator"),
        ({"aggregator": "mean"}, {"strategy": FedAvg}, UsageError, "takes no aggregator beside it"),
        ({}, {"strategy": FedAvg, "local_rule": Scaffold}, UsageError, "has a server's half"),
        ({}, {"strategy": lambda *, graph: None}, UsageError, "cannot be called with aggregator"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, table: dict[str, Any], given: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        fedlab.run(scenario(**table), out=tmp_path / "no", **given)
    assert not (tmp_path / "no").exists()


class Doubling(Strategy):
    """Whole, and from anywhere: no relative of flwr's FedAvg."""

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        return FedAvg().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        arrays = next(iter(replies)).content["arrays"]
        doubled = {name: 2 * array.numpy() for name, array in arrays.items()}
        return ArrayRecord({k: torch.from_numpy(v) for k, v in doubled.items()}), MetricRecord()

    def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        return []

    def aggregate_evaluate(self, server_round: int, replies: Any) -> None:
        return None

    def summary(self) -> None:
        pass


def test_a_strategy_with_nothing_but_the_interface_runs(tmp_path: Path) -> None:
    report = fedlab.run(scenario(), out=tmp_path / "doubling", strategy=Doubling, local_rule=LocalRule())
    assert manifest(report.directory)["objects"] == {"local_rule": "LocalRule", "strategy": "Doubling"}
