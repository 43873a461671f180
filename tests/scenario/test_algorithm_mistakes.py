"""Mistakes in what makes an algorithm: rule, sampler, server optimizer, stragglers, adversaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedlab.errors import ScenarioError
from fedlab.scenario import load, trial
from fedlab.tasks.partition import classes, dominant

SMALLEST = {"schema": 1, "task": {"dataset": "digits", "model": "mlp"}}


def told(given: Any) -> dict[str, str]:
    with pytest.raises(ScenarioError) as caught:
        load(given)
    return {problem.place: problem.message for problem in caught.value.problems}


def test_every_part_takes_a_name_or_a_table() -> None:
    found = load(
        SMALLEST
        | {
            "strategy": {
                "local_rule": {"name": "fedprox", "mu": 0.5},
                "sampling": "cyclic",
                "pre_aggregation": {"name": "clipping", "max_norm": 1.0},
                "server_optimizer": {"name": "sgd", "momentum": 0.9},
            },
            "clients": {"local_epochs": 5, "stragglers": {}},
            "adversaries": [{"name": "sign-flip", "fraction": 0.2, "scale": 2.0}],
        }
    )
    strategy, (adversary,) = found.strategy, found.adversaries
    assert strategy.local_rule.params == {"mu": 0.5} and strategy.sampling.name == "cyclic"
    assert strategy.pre_aggregation is not None and strategy.pre_aggregation.params == {"max_norm": 1.0}
    assert found.clients.stragglers is not None and found.clients.stragglers.fraction == 0.5
    assert (adversary.label, adversary.fraction, adversary.params) == ("sign-flip", 0.2, {"scale": 2.0})
    assert load(SMALLEST).strategy.pre_aggregation is None and load(SMALLEST).adversaries == ()


@pytest.mark.parametrize(
    ("part", "value", "place", "message"),
    [
        (
            "local_rule",
            {"name": "fedprox", "mu": -0.1},
            "local_rule.mu",
            "got -0.1; expected a finite number >= 0",
        ),
        ("local_rule", {"name": "fedprox", "mu": "1"}, "local_rule.mu", 'got "1"; expected a finite number'),
        ("local_rule", {"name": "fedprox", "steps": 0}, "local_rule", "steps = 0; expected at least 1"),
        (
            "local_rule",
            {"name": "fedprox", "nu": 1},
            "local_rule.nu",
            'Did you mean "mu"? Parameters: mu, steps',
        ),
        ("local_rule", "fedpox", "local_rule", 'no local rule is called "fedpox". Did you mean "fedprox"'),
        ("local_rule", 3, "local_rule", "got 3; expected a name"),
        ("sampling", "unifrom", "sampling", 'no sampler is called "unifrom". Did you mean "uniform"'),
        (
            "sampling",
            {"name": "cyclic", "reshuffle": 1},
            "sampling.reshuffle",
            "got 1; expected true or false",
        ),
        ("sampling", {"name": "uniform", "size": 3}, "sampling.size", "unknown parameter. Parameters: none"),
        ("pre_aggregation", "cliping", "pre_aggregation", 'Did you mean "clipping"'),
        ("pre_aggregation", "clipping", "pre_aggregation.max_norm", "missing; expected a finite number > 0"),
        (
            "server_optimizer",
            "sdg",
            "server_optimizer",
            'no server optimizer is called "sdg". Did you mean "sgd"',
        ),
        ("server_optimizer", {"momentum": -1}, "server_optimizer.momentum", ">= 0 and < 1"),  # of sgd
        ("server_optimizer", {"name": "sgd", "momentum": 1.0}, "server_optimizer.momentum", ">= 0 and < 1"),
        ("server_optimizer", {"name": "sgd", "learning_rate": 0}, "server_optimizer.learning_rate", "> 0"),
        ("server_optimizer", {"name": "sgd", "beta": 0.9}, "server_optimizer.beta", "unknown parameter"),
    ],
)
def test_one_mistake_in_the_strategy(part: str, value: object, place: str, message: str) -> None:
    problems = told(SMALLEST | {"strategy": {part: value}})
    assert list(problems) == [f"strategy.{place}"] and message in problems[f"strategy.{place}"]


@pytest.mark.parametrize(
    ("clients", "place", "message"),
    [
        ({"stragglers": {"fraction": 1.5}, "local_epochs": 2}, "clients.stragglers.fraction", "from 0 to 1"),
        ({"stragglers": {"share": 0.5}, "local_epochs": 2}, "clients.stragglers.share", "unknown key"),
        ({"stragglers": {"partial": "no"}, "local_epochs": 2}, "clients.stragglers.partial", "true or false"),
        ({"stragglers": 0.5, "local_epochs": 2}, "clients.stragglers", "got 0.5; expected a table"),
        (
            {"stragglers": {}, "local_steps": 5},
            "clients.stragglers",
            "local_steps is given; expected local_epochs",
        ),
        (
            {"stragglers": {"fraction": 0.96, "partial": False}},
            "clients.stragglers.fraction",
            "got 0.96; of a cohort of 10 nobody is left",
        ),
        ({"stragglers": {}}, "clients.stragglers", "but those do 1; raise clients.local_epochs"),
    ],
)
def test_one_mistake_in_stragglers(clients: dict[str, Any], place: str, message: str) -> None:
    problems = told(SMALLEST | {"clients": clients})
    assert list(problems) == [place] and message in problems[place]


def test_stragglers_that_are_left_out_may_have_one_epoch() -> None:
    for fraction in (0.0, 0.5, 0.94):
        assert load(SMALLEST | {"clients": {"stragglers": {"partial": False, "fraction": fraction}}})


@pytest.mark.parametrize(
    ("adversaries", "place", "message"),
    [
        (
            [{"name": "sign-flip"}],
            "adversaries.0",
            "expected either fraction, a share of the clients, or clients",
        ),
        (
            [{"name": "sign-flip", "fraction": 0.1, "clients": [1]}],
            "adversaries.0",
            "expected either fraction",
        ),
        ([{"name": "sign-flip", "fraction": 1.5}], "adversaries.0.fraction", "from 0 to 1"),
        ([{"name": "sign-flip", "fraction": -0.5}], "adversaries.0.fraction", "from 0 to 1"),
        (
            [{"name": "sign-flip", "clients": [3, 10]}],
            "adversaries.0.clients",
            "got 10; expected numbers below 10",
        ),
        ([{"name": "sign-flip", "clients": [-1]}], "adversaries.0.clients.0", "got -1; expected an integer"),
        (
            [{"name": "sign-flip", "clients": [4, 4]}],
            "adversaries",
            "client 4 is named twice; expected each once",
        ),
        (
            [{"name": "sign-flip", "fraction": 0.2, "scale": 0}],
            "adversaries.0.scale",
            "got 0; expected a finite",
        ),
        ([{"name": "sing-flip", "fraction": 0.2}], "adversaries.0.name", 'Did you mean "sign-flip"'),
        ([{"fraction": 0.2}], "adversaries.0.name", "missing"),
        (
            [{"name": "sign-flip", "fraction": 0.6}, {"name": "sign-flip", "label": "more", "fraction": 0.5}],
            "adversaries",
            "11 adversaries, but there are 10 clients",
        ),
        (
            [{"name": "sign-flip", "fraction": 0.1}, {"name": "sign-flip", "fraction": 0.1}],
            "adversaries.1",
            'there is already one labelled "sign-flip"',
        ),
    ],
)
def test_one_mistake_in_adversaries(adversaries: Any, place: str, message: str) -> None:
    problems = told(SMALLEST | {"adversaries": adversaries})
    assert list(problems) == [place] and message in problems[place]


def test_all_of_them_at_once_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        """schema = 1
[task]
dataset = "digits"
model = "mlp"
[clients]
local_steps = 3
[clients.stragglers]
fraction = 0.5
[strategy]
local_rule = { name = "fedprox", mu = -1.0 }
sampling = "cylic"
[strategy.server_optimizer]
name = "sgd"
momentum = 1.0
[[adversaries]]
name = "sign-flip"
"""
    )
    assert list(told(file)) == [
        "clients.stragglers (line 7)",
        "strategy.local_rule.mu (line 10)",
        "strategy.sampling (line 11)",
        "strategy.server_optimizer.momentum (line 14)",
        "adversaries.0 (line 15)",
    ]


def test_how_many_classes_a_client_may_have_is_no_mistake_where_the_data_are_unread() -> None:
    """A stand-in of one class alone would refuse two classes per client, and one of ten alone much else."""
    assert trial.partition(classes, {"per_client": 2}, None, 20) == []
    assert trial.partition(dominant, {"per_client": 600}, None, 20) == []
    ((where, text),) = trial.partition(classes, {"per_client": 11}, None, 20)
    assert where == ("per_client",) and text == "got 11; expected a whole number from 1 to 10"
