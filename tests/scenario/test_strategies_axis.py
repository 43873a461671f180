"""Several strategies in one scenario: how entries are filled in, and where their mistakes stand."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedlab.errors import ScenarioError, UnknownName
from fedlab.scenario import json_schema, load, resolved_toml
from fedlab.scenario.schema import Strategy

SMALLEST: dict[str, Any] = {"schema": 1, "task": {"dataset": "digits", "model": "mlp"}}


def scenario(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return SMALLEST | {"strategies": list(entries)} | changes


def told(given: Any, overrides: list[str] | None = None) -> dict[str, str]:
    """Place -> message of every problem."""
    with pytest.raises(ScenarioError) as caught:
        load(given, overrides or [])
    return {problem.place: problem.message for problem in caught.value.problems}


def test_without_the_axis_nothing_is_different() -> None:
    found = load(SMALLEST)
    assert (found.strategies, found.labels) == ((), [""])
    assert found.under("") is found
    assert "strategies" not in resolved_toml(found)
    assert load(SMALLEST | {"strategies": []}) == found


def test_an_entry_takes_over_what_it_does_not_give() -> None:
    shared = {"rounds": 7, "aggregator": {"name": "weighted-mean"}, "server_optimizer": {"momentum": 0.5}}
    found = load(
        scenario({"label": "a", "cohort": 4}, {"rounds": 9, "server_optimizer": "sgd"}, strategy=shared)
    )
    assert found.labels == ["a", "fedavg"], "a label is the strategy's name unless given"
    a, b = found.under("a"), found.under("fedavg")
    assert (a.strategy.rounds, a.strategy.cohort, b.strategy.rounds, b.strategy.cohort) == (7, 4, 9, 10)
    assert (a.strategy.server_optimizer.params, b.strategy.server_optimizer.params) == ({"momentum": 0.5}, {})
    assert type(a.strategy) is Strategy and a.strategies == ()
    assert a == load(SMALLEST | {"strategy": shared | {"cohort": 4}, "audit": {"victims": 4}})
    assert found.audit.victims == 4, "no strategy has fewer observations than victims"
    with pytest.raises(UnknownName, match='"b"'):
        found.under("b")


def test_options_are_for_the_strategy_that_they_were_written_for() -> None:
    shared = {"name": "buffered", "options": {"concurrency": 5}}
    found = load(
        scenario(
            {"label": "as"},
            {"label": "wide", "options": {"concurrency": 9}},
            {"label": "sync", "name": "fedavg"},
            strategy=shared,
        )
    )
    options = {one.label: one.options for one in found.strategies}
    assert options == {"as": {"concurrency": 5}, "wide": {"concurrency": 9}, "sync": {}}


@pytest.mark.parametrize(
    "entries",
    [
        [{"label": "a", "cohort": 4}, {"label": "b", "over_selection": 1.25, "cohort": 8}],
        [{"label": "a", "name": "buffered", "options": {"concurrency": 5}}, {"label": "b"}],
        [{"label": "a", "name": "fedavg"}, {"label": "b", "target": {"loss": 0.5}, "evaluate_every": 2}],
        [{"label": "a", "name": "buffered", "options": {"concurrency": 3}}],
    ],
)
@pytest.mark.parametrize(
    "shared", [{}, {"name": "buffered", "options": {"concurrency": 3}, "deadline": 9.0, "rounds": 4}]
)
def test_a_resolved_scenario_is_the_same_scenario(entries: Any, shared: Any) -> None:
    found = load(scenario(*entries, strategy=shared))
    text = resolved_toml(found)
    assert load(tomllib.loads(text)) == found and load(found) == found
    # Entries are written with what sets them apart, so that a change of what they share still counts.
    assert all("local_rule" not in one for one in tomllib.loads(text)["strategies"])
    assert {one.quorum for one in load(found, ["strategy.quorum=2"]).strategies} == {2}


def test_mistakes_stand_where_they_can_be_mended_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        """schema = 1
[task]
dataset = "digits"
model = "mlp"
[strategy]
rounds = 20
quorum = 3
deadline = -1
[audit]
rounds = [1, 15]
[[strategies]]
label = "wide"
cohort = 11
[[strategies]]
label = "short"
rounds = 12
cohrt = 4
[[strategies]]
label = "narrow"
cohort = 2
local_rule = { name = "fedprox", mu = -1.0 }
[[strategies]]
label = "aim"
target = { loss = 0.0, accuracy = 0.5 }
[[strategies]]
label = "wide"
name = "bufferd"
[[strategies]]
label = "late"
name = "buffered"
options = { concurrency = 0, staleness = { name = "polynomal" } }
[[strategies]]
label = "later"
name = "buffered"
options = { concurrency = 4, staleness = { name = "polynomial", exponent = -1.0 } }
"""
    )
    problems = told(file)
    assert {place: text.split(";")[0].split(". ")[0] for place, text in problems.items()} == {
        "strategy.deadline (line 8)": "got -1",
        "audit.rounds (line 10)": "round 15 never happens",
        "strategies.0.cohort (line 13)": "got 11",
        "strategies.1.cohrt (line 17)": "unknown key",
        "strategies.2.quorum (line 18)": "got 3",
        "strategies.2.local_rule.mu (line 21)": "got -1.0",
        "strategies.3.target (line 24)": "expected either accuracy, a share of the test records, or loss,"
        " and not both",
        "strategies.3.target.loss (line 24)": "got 0.0",
        "strategies.3.evaluate_every (line 22)": "missing",
        "strategies.4 (line 25)": 'there is already one labelled "wide"',
        "strategies.4.name (line 27)": 'no strategy is called "bufferd"',
        "strategies.5.options.concurrency (line 31)": "got 0",
        "strategies.5.options.staleness.name (line 31)": 'no staleness weight is called "polynomal"',
        "strategies.6.options.staleness.exponent (line 35)": "got -1.0",
    }
    assert problems["audit.rounds (line 10)"].endswith('(under the strategy "short")')
    assert 'Did you mean "polynomial"?' in problems["strategies.5.options.staleness.name (line 31)"]


def test_a_mistake_that_all_share_is_told_once_and_not_at_the_entries() -> None:
    shared = {"cohort": 20, "aggregator": "weighted-man", "rounds": 0}
    assert set(told(scenario({"label": "a"}, {"label": "b"}, strategy=shared))) == {
        "strategy.cohort",
        "strategy.aggregator",
        "strategy.rounds",
    }
    # ... and not at all where every entry has something of its own in its place.
    load(scenario({"label": "a", "cohort": 3}, {"label": "b", "cohort": 4}, strategy={"cohort": 20}))


@pytest.mark.parametrize(
    ("target", "place", "message"),
    [
        ({"accuracy": 1.5}, "strategy.target.accuracy", "got 1.5; expected a finite number > 0 and <= 1"),
        ({}, "strategy.target", "expected either accuracy"),
        (0.8, "strategy.target", "got 0.8; expected a table"),
    ],
)
def test_a_target_is_an_accuracy_or_a_loss(target: Any, place: str, message: str) -> None:
    problems = told(SMALLEST | {"strategy": {"target": target, "evaluate_every": 5}})
    assert problems[place].startswith(message) and len(problems) == 1


def test_a_target_needs_evaluations() -> None:
    target = {"loss": 0.5}
    problems = told(SMALLEST | {"strategy": {"target": target}})
    assert "evaluate_every = 5" in problems["strategy.evaluate_every"]
    problems = told(SMALLEST | {"strategy": {"target": target, "evaluate_every": 11}})
    assert problems["strategy.evaluate_every"].startswith("got 11; expected at most 10")
    assert "strategy.until" in told(SMALLEST | {"strategy": {"until": 0.0}})


def test_two_models_never_have_one_name() -> None:
    """Strategy "a" under defense "b-c", and strategy "a-b" under defense "c", would both be "a-b-c"."""
    defenses = [{"name": "none", "label": "c"}, {"name": "none", "label": "b-c"}]
    problems = told(scenario({"label": "a"}, {"label": "a-b"}, defenses=defenses))
    assert list(problems) == ["strategies.1.label"] and '"a-b-c"' in problems["strategies.1.label"]
    load(scenario({"label": "a"}, {"label": "a-b"}, defenses=[{"name": "none"}]))


def test_one_entry_can_be_changed_by_its_label() -> None:
    given = scenario({"label": "a"}, {"label": "b", "aggregator": "weighted-mean"}, strategy={"rounds": 5})
    found = load(given, ["strategies.b.rounds=8", "strategies.0.server_optimizer.momentum=0.5"])
    assert [one.rounds for one in found.strategies] == [5, 8]
    assert found.strategies[0].server_optimizer.params == {"momentum": 0.5}
    options = {"concurrency": 3, "staleness": "polynomial"}
    given = scenario({"label": "c"}, strategy={"name": "buffered", "options": options})
    found = load(given, ["strategies.c.options.staleness.exponent=2.0"])
    assert found.strategies[0].options == {
        "concurrency": 3,
        "staleness": {"name": "polynomial", "exponent": 2.0},
    }
    problems = told(given, ["strategies.d.rounds=8"])
    assert problems["--set strategies.d.rounds"] == 'strategies has no element "d". It has: 0 (c)'
    problems = told(given, ["strategies.c.cohort=99"])
    assert list(problems) == ["strategies.0.cohort (--set)"]


def test_the_json_schema_knows_the_plugins_of_an_entry() -> None:
    schema = json_schema()
    keys = schema["$defs"]["Variant"]["properties"]
    assert keys["name"]["enum"] == ["buffered", "fedavg"] and "label" in keys
    assert keys["aggregator"]["anyOf"][0]["enum"] == ["weighted-mean"]
    assert "default" not in keys["cohort"] and "default" not in keys["label"]
