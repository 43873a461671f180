"""[[devices.classes]], availability by trace, seconds per record with a spread: read, checked, written."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedlab.errors import ScenarioError
from fedlab.scenario import json_schema, load, resolved_toml

SMALLEST = {"schema": 1, "task": {"dataset": "digits", "model": "mlp"}}
HALVES = [{"name": "old phones", "share": 0.5}, {"name": "new phones", "share": 0.5}]


def told(given: Any, *overrides: str) -> dict[str, str]:
    """Place -> message of every problem."""
    with pytest.raises(ScenarioError) as caught:
        load(given, overrides)
    return {problem.place: problem.message for problem in caught.value.problems}


@pytest.fixture
def hours(tmp_path: Path) -> str:
    path = tmp_path / "hours.csv"
    path.write_text("device,start,end\nphone,0,50\ntablet,10,60\n")
    return str(path)


@pytest.fixture
def seconds(tmp_path: Path) -> str:
    path = tmp_path / "seconds.csv"
    path.write_text("device,seconds\nphone,3\nlaptop,1\n")
    return str(path)


def test_fleets_are_read_and_written_again(hours: str) -> None:
    old = {
        "name": "old phones",
        "share": 0.25,
        "time": {"name": "exponential", "mean": 3},
        "per_example": {"name": "half-normal", "scale": 0.02},
        "redraw": True,
        "download_mbps": 2,
        "upload_mbps": 0.5,
        "dropout": 0.3,
        "availability": {"trace": hours, "period": 60},
    }
    for devices in (
        {"classes": [old, {"name": "new", "share": 0.75}]},
        {"per_example": "exponential", "availability": {"phase_spread": 0.5, "check_in": 0.8}},
    ):
        found = load(SMALLEST | {"devices": devices})
        assert load(tomllib.loads(resolved_toml(found))) == found


def test_a_class_takes_over_what_it_does_not_say(hours: str, seconds: str) -> None:
    devices = {
        "trace": seconds,
        "dropout": 0.1,
        "upload_mbps": 3.0,
        "classes": [
            {"name": "a", "share": 0.5, "time": "exponential", "dropout": 0.0},
            {"name": "b", "share": 0.5, "availability": {"up": 5.0}},
        ],
    }
    one, other = load(SMALLEST | {"devices": devices}).devices.kinds
    assert (one.time.name, one.trace, one.dropout, one.upload_mbps) == ("exponential", None, 0.0, 3.0)
    assert (other.trace, other.dropout, other.availability and other.availability.up) == (seconds, 0.1, 5.0)
    assert one.availability is None and one.classes == other.classes == ()
    assert load(SMALLEST).devices.kinds == [load(SMALLEST).devices]


def test_mistakes_in_classes_are_all_told_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        """schema = 1
[task]
dataset = "digits"
model = "mlp"
[devices]
per_example = { name = "half-normal", scale = -1.0 }
[[devices.classes]]
name = "old"
share = 0.5
time = { name = "half-norml" }
dropout = 1.0
[devices.classes.availability]
period = 10.0
up = 20.0
[[devices.classes]]
name = "old"
share = 0.4
per_example = { name = "exponential", mena = 1.0 }
speed = 3
availability = { trace = "nowhere.csv", up = 1.0 }
"""
    )
    problems = told(file)
    assert {place: text.split(";")[0] for place, text in problems.items()} == {
        "devices.per_example.scale (line 6)": "got -1.0",
        "devices.classes (line 7)": "the shares 0.5, 0.4 sum to 0.9",
        "devices.classes.0.time.name (line 10)": 'no computing time is called "half-norml". Did you'
        ' mean "half-normal"? Known: constant, exponential, half-normal, log-normal.',
        "devices.classes.0.dropout (line 11)": "got 1.0",
        "devices.classes.0.availability.up (line 14)": "up is 20 and period 10",
        "devices.classes.1.name (line 16)": 'there is already a class "old"',
        "devices.classes.1.per_example.mena (line 18)": 'unknown parameter. Did you mean "mean"? Parameters:'
        " mean, minimum",
        "devices.classes.1.speed (line 19)": problems["devices.classes.1.speed (line 19)"],
        "devices.classes.1.availability.up (line 20)": "up and trace are both given",
        "devices.classes.1.availability.trace (line 20)": 'the trace "nowhere.csv" is no file',
    }
    assert problems["devices.classes.1.speed (line 19)"].startswith("unknown key.")


@pytest.mark.parametrize(
    ("devices", "place", "message"),
    [
        ({"per_example": "fast"}, "devices.per_example", "half-normal"),
        ({"per_example": -1.0}, "devices.per_example", "got -1.0; expected a finite number >= 0"),
        ({"redraw": 1}, "devices.redraw", "true or false"),
        ({"availability": {"phase_spread": 1.5}}, "devices.availability.phase_spread", "from 0 to 1"),
        ({"availability": {"check_in": 0.0}}, "devices.availability.check_in", "from 0.01 to 1"),
        ({"availability": {"period": -5.0}}, "devices.availability.period", "expected a finite number > 0"),
        ({"availability": {"trace": ""}}, "devices.availability.trace", 'the trace "" is no file'),
        ({"classes": [{"name": "a", "share": 0.0}]}, "devices.classes.0.share", "> 0 and <= 1"),
        ({"classes": [{"name": "a", "share": 0.999}]}, "devices.classes", "sum to 0.999; expected 1"),
        ({"classes": [{"name": "a"}]}, "devices.classes.0.share", "missing"),
        ({"classes": [{"share": 1.0}]}, "devices.classes.0.name", "missing"),
        ({"classes": [{"name": "<b>", "share": 1.0}]}, "devices.classes.0.name", "1 to 64 letters"),
        ({"classes": [{"name": " a", "share": 1.0}]}, "devices.classes.0.name", "1 to 64 letters"),
        ({"classes": [{"name": "a", "share": 1.0, "trace": "x"}]}, "devices.classes.0.trace", "unknown key"),
        ({"classes": "a"}, "devices.classes", "expected a list"),
    ],
)
def test_one_bad_value(devices: dict[str, Any], place: str, message: str) -> None:
    problems = told(SMALLEST | {"devices": devices})
    assert list(problems) == [place] and message in problems[place]


def test_shares_may_be_rounded_in_the_last_decimals() -> None:
    thirds = [{"name": name, "share": 0.3333333} for name in "abc"]
    assert len(load(SMALLEST | {"devices": {"classes": thirds}}).devices.classes) == 3


def test_the_line_of_a_broken_interval_is_told(tmp_path: Path) -> None:
    path = tmp_path / "hours.csv"
    path.write_text("device,start,end\na,5,9\na,1,2\n")
    problems = told(SMALLEST | {"devices": {"availability": {"trace": str(path)}}})
    assert "line 3: device a: time runs backwards" in problems["devices.availability.trace"]
    path.write_text("device,start,end\na,5,9\n")
    problems = told(SMALLEST | {"devices": {"availability": {"trace": str(path), "period": 8.0}}})
    assert "line 2: device a: it ends at 9, but the trace begins" in problems["devices.availability.trace"]


def test_two_traces_know_the_same_devices(hours: str, seconds: str) -> None:
    """Unless a class has a time of its own."""
    devices = {"trace": seconds, "availability": {"trace": hours}}
    problems = told(SMALLEST | {"devices": devices})
    assert list(problems) == ["devices.availability.trace"]
    assert "line 3: unknown device tablet. Expected one of" in problems["devices.availability.trace"]
    own = [{"name": "a", "share": 1.0, "time": "constant", "availability": {"trace": hours}}]
    assert load(SMALLEST | {"devices": {"trace": seconds, "classes": own}}).devices.files == [hours]


def test_a_broken_trace_of_times_does_not_hide_one_of_hours(hours: str) -> None:
    devices = {"trace": "nowhere.csv", "availability": {"trace": "nowhere-either.csv"}}
    assert set(told(SMALLEST | {"devices": devices})) == {"devices.trace", "devices.availability.trace"}


def test_overrides_reach_a_class_by_its_name(hours: str) -> None:
    base = SMALLEST | {"devices": {"classes": HALVES, "availability": {"up": 5.0}}}
    found = load(base, ["devices.classes.old phones.time=exponential", "devices.classes.1.dropout=0.5"])
    assert found.devices.classes[0].time and found.devices.classes[0].time.name == "exponential"
    assert found.devices.classes[1].dropout == 0.5
    found = load(base, [f"devices.availability.trace={hours}"])
    assert found.devices.availability and found.devices.availability.up is None


def test_editors_know_the_spreads_of_a_class() -> None:
    definitions = json_schema()["$defs"]
    for table, key in (("Devices", "per_example"), ("DeviceClass", "time"), ("DeviceClass", "per_example")):
        first, *others = definitions[table]["properties"][key]["anyOf"]
        assert first["enum"] == ["constant", "exponential", "half-normal", "log-normal"]
        assert ({"number"} <= {one.get("type") for one in others}) == (key == "per_example")
