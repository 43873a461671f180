"""Traces of devices: files that are read strictly, and told with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlab.errors import DataError, UsageError
from fedlab.runtime.devices import Errand, SimulatedFleet
from fedlab.runtime.traces import read_availability, read_durations, read_trace


def test_a_trace_is_taken_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text('\ufeffdevice, seconds\r\nphone,1.5\r\n"a, b",0\r\n\r\n17,2e1\r\n', encoding="utf-8")
    times = read_trace(file)
    assert times == (1.5, 0.0, 20.0)
    fleet = SimulatedFleet(5, time=times)
    assert [fleet.visit(Errand(device, 1, 0.0), 0).seconds for device in range(5)] == [
        1.5,
        0.0,
        20.0,
        1.5,
        0.0,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: got ''; expected device,seconds"),
        ("seconds,device\n", "line 1: got 'seconds,device'"),
        ("device,seconds\n", "no device; expected a line such as"),
        ("device,seconds\na,1\nb\n", "line 3: got 'b'; expected a device and its seconds"),
        ("device,seconds\na,1,2\n", "line 2: got 'a,1,2'"),
        ("device,seconds\n ,1\n", "line 2: got ' ,1'"),
        ("device,seconds\na,1\n\na,2\n", "line 4: device a stands in line 2 already"),
        ("device,seconds\na,-1\n", "line 2: got '-1'; expected a number of seconds >= 0"),
        ("device,seconds\na,nan\n", "line 2: got 'nan'"),
        ("device,seconds\na,fast\n", "line 2: got 'fast'"),
        ('device,seconds\n"a,1\n', "no CSV text in UTF-8"),
    ],
)
def test_a_broken_trace_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_trace(file)
    assert message in str(caught.value) and str(file) in str(caught.value)


def test_a_trace_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "trace.csv"
    for content, line in ((b"device,seconds\na,1\n\xff\xfe,1\n", 3), (b"\xff\x00", 1)):
        binary.write_bytes(content)
        with pytest.raises(UsageError, match=f"line {line}: no CSV text in UTF-8"):
            read_trace(binary)
    for path in (tmp_path, tmp_path / "missing.csv", "a\0b", "/dev/zero"):
        with pytest.raises(DataError):
            read_trace(path)


def test_intervals_are_read_by_device_wherever_their_lines_stand(tmp_path: Path) -> None:
    file = tmp_path / "hours.csv"
    file.write_text("device,start,end\nb,0,10\na,5,6\nb,10,20\na,7.5,1e2\n")
    assert read_availability(file).rows == (((0.0, 10.0), (10.0, 20.0)), ((5.0, 6.0), (7.5, 100.0)))
    named = read_availability(file, devices={"a": 1.0, "b": 2.0}, period=100.0)
    assert named.rows == (((5.0, 6.0), (7.5, 100.0)), ((0.0, 10.0), (10.0, 20.0)))
    assert named.period == 100.0


def test_what_a_device_takes_and_when_it_is_there_belong_together(tmp_path: Path) -> None:
    """Phone takes 3 s and is there from 50 on, whatever the order of the other file's lines."""
    durations, hours = tmp_path / "seconds.csv", tmp_path / "hours.csv"
    durations.write_text("device,seconds\ntablet,1\nphone,3\n")
    hours.write_text("device,start,end\nphone,50,60\ntablet,0,60\n")
    times = read_durations(durations)
    fleet = SimulatedFleet(
        4, time=tuple(times.values()), availability=read_availability(hours, devices=times)
    )
    found = [fleet.visit(Errand(device, 1, 0.0), 0) for device in range(4)]
    assert [(one.start, one.seconds) for one in found] == [(0.0, 1.0), (50.0, 3.0)] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device,seconds\na,1\n", "line 1: got 'device,seconds'; expected device,start,end"),
        ("device,start,end\n", "no device; expected a line such as 0,60,3600"),
        ("device,start,end\na,1\n", "line 2: got 'a,1'; expected a device, a start and an end"),
        ("device,start,end\na,1,2\n\n,3,4\n", "line 4: got ',3,4'"),
        (
            "device,start,end\na,5,4\n",
            "line 2: device a: it ends at 4 and starts at 5; expected",
        ),
        ("device,start,end\na,5,5\n", "line 2: device a: it ends at 5"),
        ("device,start,end\na,5,6\nb,0,9\na,3,4\n", "line 4: device a: time runs backwards: it starts at 3"),
        (
            "device,start,end\na,5,7\na,6,9\n",
            "line 3: device a: it starts at 6, before the one",
        ),
        ("device,start,end\na,-1,2\n", "line 2: got '-1'; expected a number of seconds >= 0"),
        ("device,start,end\na,nan,2\n", "line 2: got 'nan'"),
        ("device,start,end\na,0,inf\n", "line 2: got 'inf'"),
        (
            "device,start,end\na,0,101\n",
            "line 2: device a: it ends at 101, but the trace begins again",
        ),
    ],
)
def test_broken_hours_are_refused_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "hours.csv"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_availability(file, period=100.0)
    assert message in str(caught.value) and str(file) in str(caught.value)


def test_devices_of_the_other_trace_must_be_these_devices(tmp_path: Path) -> None:
    file = tmp_path / "hours.csv"
    file.write_text("device,start,end\nphone-1,0,9\nphne-2,0,9\n")
    with pytest.raises(
        UsageError, match=r'line 3: unknown device phne-2\. Did you mean "phone-2"\? Expected'
    ):
        read_availability(file, devices=["phone-1", "phone-2"])
    file.write_text("device,start,end\nphone-1,0,9\n")
    with pytest.raises(UsageError, match="no line of device phone-2; expected a line such as phone-2"):
        read_availability(file, devices=["phone-1", "phone-2"])
    with pytest.raises(DataError, match="is no file"):
        read_availability(tmp_path / "nowhere.csv")
