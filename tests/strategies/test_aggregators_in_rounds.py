"""An aggregator in a run: tried before it, skipped where it breaks, refused where it cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord

import fedlab
from fedlab.errors import PluginError, UsageError
from fedlab.experiment.combining import WIDTH
from fedlab.runtime import SimulationGrid
from fedlab.strategies import Composition, Learner, Momentum, Synchronous, Updates
from tests.runtime.apps import adding_app
from tests.strategies.test_composition import START, reply

SCENARIO: dict[str, Any] = {
    "schema": 1,
    "name": "combining",
    "task": {"dataset": "digits", "model": {"name": "mlp", "width": 4, "depth": 1}},
    "clients": {"count": 7, "batch_size": 32, "local_steps": 1},
    "runtime": {"executor": "inline"},
}


def scenario(**strategy: Any) -> dict[str, Any]:
    return SCENARIO | {"strategy": {"rounds": 3, "cohort": 7, **strategy}}


class Counting:
    """The mean, and how often it was asked; in round 2 what `breaks` makes of it."""

    def __init__(self, breaks: Any = None) -> None:
        self.breaks = breaks

    def aggregate(self, updates: Updates, state: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        asked, found = state.get("asked", 0) + 1, updates.deltas.mean(0)
        if self.breaks and asked == 2:
            found = self.breaks(found)
        return found, {"asked": asked}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda d, w: d, rf"\(7, {WIDTH}\); expected a tensor of shape \({WIDTH},\) \(in a trial"),
        (lambda d, w: d.mean(0).long(), r"torch.int64; expected torch.float64"),
        (lambda d, w: d.mean(0) / 0, "non-finite"),
        (lambda d, w: d[9], "IndexError"),
    ],
)
def test_a_broken_plugin_fails_before_anything_is_written(answer: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=message):
        fedlab.run(scenario(), out=tmp_path / "run", aggregator=answer)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"aggregator": {"name": "krum", "f": 3}}, "'krum' combines at least 9 updates"),
        ({"aggregator": {"name": "bulyan", "f": 1}, "pre_aggregation": "bucketing"}, "at least 13 updates"),
        ({"pre_aggregation": {"name": "nnm", "f": 4}}, "'weighted-mean' after 'nnm' .* at least 9"),
    ],
)
def test_a_cohort_below_the_bound_is_refused(strategy: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        fedlab.run(scenario(**strategy), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pre_aggregation_and_an_aggregator_with_a_root_run(tmp_path: Path) -> None:
    weights = set()
    for before in (None, "nnm", "bucketing"):
        table = scenario(aggregator={"name": "fltrust", "root_records": 20})
        if before:
            table["strategy"]["pre_aggregation"] = before
        report = fedlab.run(table, out=tmp_path / str(before))
        manifest = json.loads((report.directory / "manifest.json").read_text())
        weights.add(manifest["weights_sha256"]["none"])
    assert len(weights) == 3


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("scaffold", "scaffold sends control beside the update"),
        ("mime-lite", "mime-lite sends gradient beside the update"),
        ("personal-head", "personal-head leaves a part of the model"),
    ],
)
def test_a_root_update_is_refused_where_it_has_no_counterpart(
    rule: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        fedlab.run(scenario(aggregator="fltrust", local_rule=rule), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_round_that_the_aggregator_breaks_is_skipped_and_says_why(tmp_path: Path) -> None:
    """It fails from its second call on, since its state stays that of the first."""
    report = fedlab.run(scenario(), out=tmp_path / "run", aggregator=Counting(lambda found: found[:-1]))
    events = [json.loads(line) for line in (report.directory / "events.jsonl").read_text().splitlines()]
    skipped = [one for one in events if one["event"] == "skipped round"]
    assert [one["round"] for one in skipped] == [2, 3]
    assert all("aggregator Counting returned" in one["reason"] for one in skipped)


@pytest.mark.parametrize("breaks", [lambda v: v * float("nan"), lambda v: v[:-1], lambda v: v.int()])
def test_a_broken_round_changes_nothing(breaks: Any) -> None:
    strategy = Composition(Learner(Counting(breaks), Momentum(), ["w"], 0), Synchronous(3, 0))
    arrays = ArrayRecord({name: Array(value) for name, value in START.items()})
    messages = list(strategy.configure_train(1, arrays, ConfigRecord(), SimulationGrid(adding_app(), 3)))
    answers = [reply(message, [5.0, 2.0], 1) for message in messages]
    assert strategy.aggregate_train(1, answers)[0] is not None
    learner = strategy.learner
    optimizer, aggregator = learner.optimizer_state, learner.aggregator_states
    assert strategy.aggregate_train(2, answers) == (None, None)
    assert "aggregator Counting" in strategy.why_skipped
    assert learner.optimizer_state is optimizer and learner.aggregator_states is aggregator
    assert aggregator == {"": {"asked": 1}}


class Stepping:
    """A server optimizer that answers as it is told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def step(self, delta: torch.Tensor, state: dict[str, Any]) -> Any:
        return self.answer(delta)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v: (v[:-1], {}), "Stepping returned (1,); expected a tensor of shape (2,)"),
        (lambda v: (None, {}), "Stepping returned NoneType; expected a tensor"),
        (lambda v: v, "Stepping returned a Tensor; expected a pair (step, state)"),
        (lambda v: (v.int(), {}), "Stepping returned torch.int32; expected torch.float64"),
        (lambda v: (v * float("nan"), {}), "Stepping returned non-finite numbers"),
        (lambda v: v[9], "Stepping failed: IndexError"),
    ],
)
def test_a_round_that_the_server_optimizer_breaks_changes_nothing(answer: Any, message: str) -> None:
    strategy = Composition(Learner(Counting(), Stepping(answer), ["w"], 0), Synchronous(3, 0))
    arrays = ArrayRecord({name: Array(value) for name, value in START.items()})
    messages = list(strategy.configure_train(1, arrays, ConfigRecord(), SimulationGrid(adding_app(), 3)))
    answers = [reply(message, [5.0, 2.0], 1) for message in messages]
    assert strategy.aggregate_train(1, answers) == (None, None)
    assert message in strategy.why_skipped and strategy.learner.aggregator_states == {}


def test_a_round_with_fewer_than_the_minimum_is_skipped() -> None:
    rule = Counting()
    rule.minimum = 3  # type: ignore[attr-defined]
    strategy = Composition(Learner(rule, Momentum(), ["w"], 0), Synchronous(3, 0))
    arrays = ArrayRecord({name: Array(value) for name, value in START.items()})
    messages = list(strategy.configure_train(1, arrays, ConfigRecord(), SimulationGrid(adding_app(), 3)))
    answers = [reply(message, [5.0, 2.0], 1) for message in messages]
    assert strategy.aggregate_train(1, answers[:2]) == (None, None)
    assert strategy.why_skipped == "2 usable updates; the aggregator needs 3"
    assert strategy.aggregate_train(1, answers)[0] is not None
