"""[devices], and what a round waits for."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedlab.errors import ScenarioError
from fedlab.scenario import json_schema, load, resolved_toml

SMALLEST = {"schema": 1, "task": {"dataset": "digits", "model": "mlp"}}


def told(given: Any, *overrides: str) -> dict[str, str]:
    """Place -> message of every problem."""
    with pytest.raises(ScenarioError) as caught:
        load(given, overrides)
    return {problem.place: problem.message for problem in caught.value.problems}


def test_the_defaults_are_devices_that_all_take_a_second() -> None:
    found = load(SMALLEST)
    assert (found.devices.time.name, found.devices.time.params) == ("constant", {})
    assert (found.devices.availability, found.devices.trace, found.devices.dropout) == (None, None, 0.0)
    assert (found.strategy.over_selection, found.strategy.deadline, found.strategy.quorum) == (1.0, None, 1)


def test_devices_are_read_and_written_again(tmp_path: Path) -> None:
    devices = {
        "time": {"name": "log-normal", "median": 3, "sigma": 0.25},
        "per_example": 0.5,
        "availability": {"period": 10.0, "up": 4.0},
    }
    trace = tmp_path / "trace.csv"
    trace.write_text("device,seconds\na,1\nb,2\n")
    for table in (devices, {"trace": str(trace)}, {"availability": {}}):
        found = load(SMALLEST | {"devices": table})
        assert load(tomllib.loads(resolved_toml(found))) == found
    assert load(SMALLEST | {"devices": devices}).devices.time.params == {"median": 3, "sigma": 0.25}


def test_mistakes_in_devices_are_all_told_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        """schema = 1
[task]
dataset = "digits"
model = "mlp"
[clients]
count = 12
[strategy]
cohort = 10
quorum = 11
over_selection = 1.3
deadline = 0.0
[devices]
time = { name = "half-normal", scal = 2.0 }
per_example = -1.0
download_mbps = 0
dropout = 1.0
trace = "nowhere.csv"
[devices.availability]
period = 10.0
up = 20.0
"""
    )
    problems = told(file)
    assert {place: text.split(";")[0] for place, text in problems.items()} == {
        "strategy.quorum (line 9)": "got 11",
        "strategy.over_selection (line 10)": "got 1.3",
        "strategy.deadline (line 11)": "got 0.0",
        "devices.time.scal (line 13)": 'unknown parameter. Did you mean "scale"? Parameters: scale, minimum',
        "devices.per_example (line 14)": "got -1.0",
        "devices.download_mbps (line 15)": "got 0",
        "devices.dropout (line 16)": "got 1.0",
        "devices.trace (line 17)": "trace and time are both given",
        "devices.availability.up (line 20)": "up is 20 and period 10",
    }
    assert "expected at most 1.2, or a smaller cohort" in problems["strategy.over_selection (line 10)"]
    assert "expected at most 10, the replies that a round waits for" in problems["strategy.quorum (line 9)"]


@pytest.mark.parametrize(
    ("table", "key", "place", "message"),
    [
        ("devices", {"time": "half-norml"}, "devices.time", 'Did you mean "half-normal"'),
        ("devices", {"time": 3.0}, "devices.time", "got 3.0; expected a name"),
        (
            "devices",
            {"time": {"name": "half-normal", "scale": -1}},
            "devices.time.scale",
            "got -1; expected a finite number > 0",
        ),
        ("devices", {"time": {"name": "log-normal", "sigma": 11}}, "devices.time.sigma", "> 0 and <= 10"),
        ("devices", {"time": {"name": "exponential", "mean": "1"}}, "devices.time.mean", 'got "1"'),
        ("devices", {"trace": "no/such.csv"}, "devices.trace", 'the trace "no/such.csv" is no file'),
        ("devices", {"trace": "a\0b"}, "devices.trace", "trace"),
        ("devices", {"trace": ""}, "devices.trace", 'the trace "" is no file'),
        ("devices", {"trace": 3}, "devices.trace", "expected a string"),
        ("devices", {"availability": {"up": 1e9}}, "devices.availability.up", "period 86400"),
        ("devices", {"availability": {"period": 60.0}}, "devices.availability.period", "up is 28800"),
        ("devices", {"availability": {"dwon": 1.0}}, "devices.availability.dwon", "unknown key"),
        ("strategy", {"quorum": 11}, "strategy.quorum", "expected at most 10"),
        ("strategy", {"over_selection": 0.5}, "strategy.over_selection", "from 1 to 100"),
        ("strategy", {"over_selection": 1.1}, "strategy.over_selection", "expected at most 1"),
        ("strategy", {"deadline": "1"}, "strategy.deadline", "expected a finite number > 0"),
        ("guard", {"max_norm": 0.0}, "guard.max_norm", "> 0"),
        ("checkpoint", {"every": -1}, "checkpoint.every", "from 0"),
        ("runtime", {"num_gpus": 1.5}, "runtime.num_gpus", "expected a fraction up to 1, or a whole number"),
        ("runtime", {"address": ""}, "runtime.address", 'expected "auto" or "host:port"'),
        ("runtime", {"address": "foo"}, "runtime.address", 'expected "auto" or "host:port"'),
        ("runtime", {"address": "foo:70000"}, "runtime.address", 'expected "auto" or "host:port"'),
        ("runtime", {"address": "ray://foo:1"}, "runtime.address", 'expected "auto" or "host:port"'),
        ("runtime", {"placement": "heap"}, "runtime.placement", '"pack" or "spread"'),
        ("runtime", {"working_dir": "."}, "runtime.working_dir", "runtime.address is missing"),
        ("runtime", {"wait": 0.0}, "runtime.wait", "> 0"),
    ],
)
def test_one_bad_value(table: str, key: dict[str, Any], place: str, message: str) -> None:
    problems = told(SMALLEST | {table: key})
    assert list(problems) == [place] and message in problems[place]


def test_a_traces_line_is_told(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("device,seconds\na,1\nb,soon\n")
    problems = told(SMALLEST | {"devices": {"trace": str(trace)}})
    assert "line 3: got 'soon'; expected a number of seconds" in problems["devices.trace"]


def test_over_selection_may_ask_everybody_and_no_more() -> None:
    """1.2 x 10 is 12 of 12, and 1.1 x 10 is 11 though floating point says a little more."""
    for count, factor in ((12, 1.2), (11, 1.1), (100, 10.0)):
        scenario = SMALLEST | {
            "clients": {"count": count},
            "strategy": {"cohort": 10, "over_selection": factor},
        }
        assert load(scenario).strategy.over_selection == factor


def test_overrides_reach_devices_and_a_trace_takes_the_place_of_a_time(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("device,seconds\na,1\n")
    base = SMALLEST | {"devices": {"time": "exponential"}}
    assert load(base, ["devices.time.mean=2"]).devices.time.params == {"mean": 2}
    assert load(base, [f"devices.trace={trace}"]).devices.trace == str(trace)
    assert load(base, ["devices.availability.up=5"]).devices.availability.up == 5.0  # type: ignore[union-attr]
    assert load(SMALLEST, ["devices.time.seconds=2"]).devices.time.params == {"seconds": 2}
    assert 'Did you mean "mean"' in told(base, "devices.time.men=2")["--set devices.time.men"]


def test_editors_know_the_times() -> None:
    times = json_schema()["$defs"]["times"]["properties"]["name"]["enum"]
    assert times == ["constant", "exponential", "half-normal", "log-normal"]


@pytest.mark.parametrize(
    "good", [{"num_gpus": 0.25}, {"num_gpus": 2}, {"address": "auto"}, {"address": "[::1]:6379"}]
)
def test_resources_and_addresses_that_ray_takes(good: dict[str, Any]) -> None:
    found = load(SMALLEST | {"runtime": good}).runtime
    assert {key: getattr(found, key) for key in good} == good


def test_an_unknown_key_of_a_table_that_may_be_left_out_is_told_with_the_known_ones() -> None:
    problems = told(SMALLEST | {"devices": {"availability": {"foo": 1}}})
    keys = "period, up, phase_spread, check_in, trace"
    assert problems["devices.availability.foo"].endswith(f"Keys in [devices.availability]: {keys}")


def test_all_mistakes_in_a_spread_are_told_with_the_ranges() -> None:
    time = {"name": "exponential", "mean": "abc", "minimum": -2, "foo": 3}
    problems = told(SMALLEST | {"devices": {"time": time}})
    assert problems["devices.time.mean"] == 'got "abc"; expected a finite number > 0'
    assert problems["devices.time.minimum"] == "got -2; expected a finite number >= 0"
    assert set(problems) == {f"devices.time.{key}" for key in ("mean", "minimum", "foo")}


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        ("devices.trace={trace}", "devices.time=exponential", "devices.trace (--set)"),
        ("devices.trace={trace}", "devices.time.seconds=2", "devices.trace (--set)"),
        ("clients.local_steps=1", "clients.local_epochs=2", "clients.local_steps (--set)"),
        ("seed=1", "seeds=[1, 2]", "seed (--set)"),
    ],
)
def test_an_override_drops_what_the_file_says_and_contradicts_another_override(
    tmp_path: Path, one: str, other: str, place: str
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("device,seconds\na,1\n")
    one = one.format(trace=trace)
    for pair in ((one, other), (other, one)):
        problems = told(SMALLEST, *pair)
        assert list(problems) == [place] and "are both given" in problems[place]
    base = SMALLEST | {"devices": {"trace": str(trace)}, "clients": {"local_steps": 3}, "seed": 7}
    assert load(base, [other]) != load(base)
