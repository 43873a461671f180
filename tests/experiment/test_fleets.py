"""The fleet that [devices] describes, and runs on devices that come and go."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import fedlab
from fedlab.errors import DataError, FedlabError
from fedlab.experiment.fleets import fleet, trace_hashes
from fedlab.runtime.classes import MixedFleet
from fedlab.runtime.devices import Errand, Fleet, SimulatedFleet
from fedlab.runtime.times import HalfNormal
from fedlab.scenario import load
from tests.experiment import crashes
from tests.experiment.test_resume import interrupted, stop_at


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        crashes.quick_plugins(patch)
        yield


def built(count: int = 40, **devices: Any) -> Fleet:
    scenario = load({"schema": 1, "task": {"dataset": "digits", "model": "mlp"}, "devices": devices})
    return fleet(scenario.devices, [10 * device for device in range(count)])


def trained(out: Path, **devices: Any) -> dict[str, Any]:
    """Metrics of one undefended cell of 4 clients, all of which every one of 5 rounds asks."""
    base = {"attacks": [], "defenses": [{"name": "none"}], "audit": {"rounds": [1], "victims": 1}}
    strategy = {"rounds": 5, "cohort": 4}
    fedlab.run(crashes.quick_scenario(**base, devices=devices, strategy=strategy), out=out)
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())["cells"]["none-train-s3"]
    return found


@pytest.fixture
def hours(tmp_path: Path) -> str:
    """Devices 0 to 3 are there until 2.5, 3, 2 and 2.5."""
    path = tmp_path / "hours.csv"
    path.write_text("device,start,end\na,0,2.5\nb,0,1\nb,1,3\nc,0,2\nd,0,2.5\n")
    return str(path)


def test_the_durations_of_the_measured_setup_can_be_said() -> None:
    """0.1 + |N| n / 50, with one |N| per device: that of a half-normal time of the same seed."""
    found = built(
        time={"name": "constant", "seconds": 0.1}, per_example={"name": "half-normal", "scale": 0.02}
    )
    drawn = SimulatedFleet(40, time=HalfNormal(1.0))
    for device in range(40):
        expected = 0.1 + drawn.nominal(device, 7) * 10 * device / 50
        assert found.visit(Errand(device, 1, 0.0), 7).seconds == pytest.approx(expected)


def test_a_class_has_what_it_says_and_otherwise_what_devices_have(hours: str, tmp_path: Path) -> None:
    trace = tmp_path / "seconds.csv"
    trace.write_text("device,seconds\na,5\nb,5\nc,5\nd,5\n")
    found = built(
        trace=str(trace),
        download_mbps=8.0,
        availability={"trace": hours},
        classes=[
            {"name": "traced", "share": 0.5},
            {"name": "own time", "share": 0.3, "time": "constant", "upload_mbps": 4.0},
            {"name": "always there", "share": 0.2, "availability": {"period": 5.0, "up": 5.0}},
        ],
    )
    assert isinstance(found, MixedFleet) and found.classes == ("traced", "own time", "always there")
    first = {found.class_of(device, 0): device for device in range(39, -1, -1)}
    visits = {name: found.visit(Errand(device, 1, 99.0, size=10**6), 0) for name, device in first.items()}
    # A megabyte takes 1 s down, and where there is an upload 2 s up.
    assert {name: (visit.start, visit.seconds) for name, visit in visits.items()} == {
        "traced": (math.inf, 6.0),
        "own time": (math.inf, 4.0),
        "always there": (99.0, 6.0),
    }


def test_windows_have_the_defaults_of_a_day() -> None:
    """Without a spread of phases everybody is up for 8 of 24 hours from midnight on."""
    day = built(availability={"phase_spread": 0.0})
    assert [day.visit(Errand(3, 1, at), 0).start for at in (0.0, 28799.0, 28800.0)] == [0.0, 28799.0, 86400.0]


def test_a_round_that_meets_nobody_goes_on_when_they_are_back(tmp_path: Path) -> None:
    """Up in the first 1.5 of 10 s, a second for each round: 0-1, 1-2, 10-11, 11-12, 20-21."""
    found = trained(tmp_path / "x", availability={"period": 10.0, "up": 1.5, "phase_spread": 0.0})
    assert found["virtual_seconds"] == 21.0 and found["skipped_rounds"] == 0


def test_a_run_whose_devices_have_all_left_stops_and_says_so(tmp_path: Path, hours: str) -> None:
    """Client 2 leaves at 2, so that three take part in the third round; at 3 the last one has left. Where the
    trace begins again after 4, rounds end at 1, 2, 5 (client 2 is back at 4), 6 and, likewise, 9."""
    out = tmp_path / "x"
    with pytest.raises(FedlabError, match="the last one of the fleet left at virtual second 3, and it is 3;"):
        trained(out, availability={"trace": hours})
    late = [line for line in (out / "events.jsonl").read_text().splitlines() if "clients late" in line]
    assert [(json.loads(line)["round"], json.loads(line)["clients"]) for line in late] == [(3, [2])]
    found = trained(tmp_path / "y", availability={"trace": hours, "period": 4.0})
    assert found["virtual_seconds"] == 9.0 and found["skipped_rounds"] == 0


def test_every_trace_is_part_of_where_a_run_comes_from(tmp_path: Path, hours: str) -> None:
    out = interrupted(
        tmp_path / "run",
        stop_at("train none", 3),
        devices={
            "classes": [
                {"name": "a", "share": 0.5},
                {"name": "b", "share": 0.5, "availability": {"trace": hours, "period": 9.0}},
            ]
        },
    )
    scenario = load(out / "scenario.toml")
    assert list(trace_hashes(scenario.devices)) == [hours]
    Path(hours).write_text("device,start,end\na,0,2\n")
    with pytest.raises(DataError, match=r"hours\.csv was changed"):
        fedlab.resume(out)
