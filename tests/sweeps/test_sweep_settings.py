"""What a sweep is made of: axes, their mistakes, the cells and their names."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import ScenarioError, UsageError
from fedlab.experiment import run
from fedlab.scenario import load, resolved_toml
from fedlab.scenario.sweep import names, plan
from fedlab.scenario.sweep_rules import MOST, axis_names, combinations, values
from tests.sweeps.conftest import tables


def problems(data: dict[str, Any], *axes: str) -> dict[str, str]:
    with pytest.raises(ScenarioError) as error:
        plan(data, axes=axes)
    return {one.place: one.message for one in error.value.problems}


def test_axes_multiply_and_the_last_turns_first() -> None:
    sweep = plan(tables(sweep={"clients.batch_size": [1, 4]}), axes=["seed=1,2,3"])
    assert [cell.settings for cell in sweep.cells] == [
        {"clients.batch_size": batch, "seed": seed} for batch in (1, 4) for seed in (1, 2, 3)
    ]
    assert [cell.name for cell in sweep.cells][:2] == ["batch_size-1__seed-1", "batch_size-1__seed-2"]
    for cell in sweep.cells:
        assert cell.scenario.clients.batch_size == cell.settings["clients.batch_size"]
        assert cell.scenario.seeds == [cell.settings["seed"]]
        assert cell.scenario.sweep is None
        assert cell.scenario.name == cell.name


def test_defaults_that_hang_on_an_axis_follow_it() -> None:
    """The cohort is all clients unless given: the scenario is turned before its defaults are filled in."""
    sweep = plan(tables(sweep={"clients.count": [3, 9]}))
    assert [cell.scenario.strategy.cohort for cell in sweep.cells] == [3, 9]


def test_the_command_line_stands_in_place_of_the_file() -> None:
    sweep = plan(tables(sweep={"seed": [1, 2, 3], "clients.count": [4, 5]}), axes=["seed=8"])
    assert sweep.axes == {"seed": (8,), "clients.count": (4, 5)}


def test_a_sweep_written_down_is_the_same_sweep() -> None:
    first = plan(tables(), ["strategy.rounds=3"], ["clients.batch_size=1,2", "seed=1,2"])
    again = plan(tomllib.loads(first.toml))
    assert [(one.name, one.sha256) for one in again.cells] == [(one.name, one.sha256) for one in first.cells]


def test_a_scenario_with_a_sweep_survives_its_own_text() -> None:
    scenario = load(
        tables(sweep={"clients.batch_size": [1, 4], "clients.mode": ["train", ["train", "eval"]]})
    )
    assert load(tomllib.loads(resolved_toml(scenario))) == scenario


def test_every_mistake_at_once_and_in_its_place() -> None:
    found = problems(
        tables(sweep={"clients.batchsize": [1], "clients.batch_size": [1, -3, 2.5], "name": ["a", "b"]})
    )
    assert set(found) == {"sweep.name"}  # which no cell can be tried with
    found = problems(tables(sweep={"clients.batchsize": [1], "strategy.round": [2]}))
    assert 'Did you mean "batch_size"?' in found["sweep.clients.batchsize"]
    assert 'Did you mean "rounds"?' in found["sweep.strategy.round"]
    found = problems(
        tables(sweep={"clients.batch_size": [1, -3, 2.5], "strategy.aggregator": ["mean", "medain"]})
    )
    assert found["sweep.clients.batch_size.1"].startswith("got -3")
    assert found["sweep.clients.batch_size.2"].startswith("got 2.5")
    assert 'Did you mean "median"?' in found["sweep.strategy.aggregator.1"]


def test_a_key_that_there_is_not_hides_no_other_mistake() -> None:
    found = problems(tables(sweep={"clients.batchsize": [1, 2], "seed": [1, "two"], "strategy.round": [3]}))
    assert sorted(found) == ["sweep.clients.batchsize", "sweep.seed.1", "sweep.strategy.round"]
    assert 'Did you mean "batch_size"?' in found["sweep.clients.batchsize"]


def test_a_mistake_of_two_values_together_names_both() -> None:
    """Each alone is sound: five clients, or a cohort of five where there are five."""
    found = problems(tables(sweep={"clients.count": [5, 2], "strategy.cohort": [2, 5], "seed": [1, 2]}))
    assert list(found) == ["sweep"]
    assert found["sweep"].startswith("with clients.count=2, strategy.cohort=5, seed=1 (and in 1 more cells)")


def test_mistakes_of_the_scenario_itself_are_told_once() -> None:
    data = tables(sweep={"seed": [1, 2]})
    data["strategy"]["rounds"] = 0
    assert list(problems(data)) == ["strategy.rounds"]


@pytest.mark.parametrize(
    ("sweep", "place", "words"),
    [
        ({"seed": [1, 1]}, "sweep.seed.1", "given twice"),
        ({"seed": []}, "sweep.seed", "non-empty"),
        ({"seed": 3}, "sweep.seed", "list"),
        ({}, "sweep", "got {}"),
        ({"clients": {"batch_size": [1]}}, "sweep.clients", '"clients.batch_size" = '),
        ({"sweep.seed": [1]}, "sweep.sweep.seed", "no sweeps in it"),
        ({"seed": list(range(50)), "clients.batch_size": list(range(1, 60))}, "sweep", "50 x 59 values"),
    ],
)
def test_axes_that_are_none(sweep: dict[str, Any], place: str, words: str) -> None:
    assert words in problems(tables(sweep=sweep))[place]


@pytest.mark.parametrize("text", ["seed", "seed=", "=1"])
def test_options_that_are_none(text: str) -> None:
    assert "expected KEY=VALUE,VALUE" in problems(tables(), text)[f"--sweep {text}"]


def test_an_option_given_twice() -> None:
    assert "given twice" in problems(tables(), "seed=1,2", "seed=3")["--sweep seed"]


def test_nothing_to_sweep() -> None:
    assert "--sweep clients.batch_size=1,4,8" in problems(tables())["sweep"]


def test_the_number_of_cells_is_checked_before_they_are_made() -> None:
    seeds = ",".join(map(str, range(MOST)))
    assert "expected at most" in problems(tables(), f"seed={seeds}", "clients.batch_size=1,2")["sweep"]


def test_a_run_of_a_sweep_names_the_command_that_runs_it() -> None:
    with pytest.raises(UsageError, match="fedlab sweep"):
        run(tables(sweep={"seed": [1, 2]}))


def test_values_of_an_option() -> None:
    assert values("1, 2.5,true") == [1, 2.5, True]
    assert values('mean,"a,b"') == ["mean", "a,b"]
    assert values('["train"],["train","eval"]') == [["train"], ["train", "eval"]]
    assert values('{ name = "dirichlet", alpha = 0.5 },iid') == [{"name": "dirichlet", "alpha": 0.5}, "iid"]


def test_names_of_axes_are_as_short_as_they_may_be() -> None:
    keys = ["clients.batch_size", "task.model.width", "tasks.a.width", "seed"]
    assert list(axis_names(keys).values()) == ["batch_size", "model.width", "a.width", "seed"]


def test_names_of_cells_say_their_settings() -> None:
    assert names([{"clients.partition": {"name": "dirichlet", "alpha": 0.5}, "a.b": -1.5}]) == [
        "partition-dirichlet-alpha-0.5__b--1.5"
    ]
    assert names([{"clients.mode": ["train", "eval"]}]) == ["mode-train-eval"]


@given(st.lists(st.text(max_size=90), min_size=1, max_size=8, unique=True))
def test_names_of_cells_are_names_of_files_and_differ(texts: list[str]) -> None:
    found = names(list(combinations({"audit.label": texts})))
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name) for name in found)
    assert len({name.casefold() for name in found}) == len(texts)
