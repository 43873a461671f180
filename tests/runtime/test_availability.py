"""When devices are there: exact windows, and properties that hold for every fleet and every time."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import UsageError
from fedlab.runtime.availability import Availability, AvailabilityTrace, Presence
from fedlab.runtime.devices import Errand, SimulatedFleet
from fedlab.runtime.draws import share

TIMES = st.floats(0, 1e7)


def shift(device: int, day: Availability, seed: int = 0) -> float:
    return day.phase_spread * share(seed, device, "phase") * day.period


@st.composite
def windows(draw: Any) -> Availability:
    period = draw(st.floats(0.01, 1e5))
    return Availability(
        period,
        period * draw(st.floats(0.01, 1)),
        phase_spread=draw(st.floats(0, 1)),
        check_in=draw(st.sampled_from([1.0, 0.5])),
    )


@st.composite
def traces(draw: Any) -> AvailabilityTrace:
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        edges = sorted(draw(st.sets(st.integers(0, 1000), min_size=2, max_size=10)))
        rows.append(tuple((float(a), float(b)) for a, b in zip(edges[::2], edges[1::2], strict=False)))
    return AvailabilityTrace(tuple(rows), draw(st.sampled_from([None, 1000.0, 1500.0])))


def test_a_day_without_a_shift() -> None:
    """10 s with 4 s up: there in [0, 4), [10, 14), [20, 24)."""
    day = Availability(period=10.0, up=4.0, phase_spread=0.0)
    asked = (0.0, 3.5, 4.0, 9.0, 10.0, 23.0, 24.0)
    assert [day.next_online(at, 3, 0) for at in asked] == [0.0, 3.5, 10.0, 10.0, 10.0, 23.0, 30.0]
    assert day.next_online(math.inf, 3, 0) == math.inf and day.online_until(5) == math.inf
    assert Availability(10.0, 10.0).next_online(7.3, 3, 0) == 7.3


def test_devices_of_one_time_zone_are_never_far_apart() -> None:
    """A quarter of a day of 100 s apart and up for 30 s: the shifts are below 25 s, so that all windows lie
    between -25 and 30, and nobody is there in [30, 75) of any day."""
    day = Availability(100.0, 30.0, phase_spread=0.25)
    starts = [day.next_online(31.0, device, 0) for device in range(500)]
    assert min(starts) < 76.0 and max(starts) > 99.0
    assert all(75.0 <= start <= 100.0 for start in starts)


def test_of_ten_days_a_device_turns_up_on_some() -> None:
    """Of 2,000 devices with check_in 0.3, all up from 0 on, 600 +- 5 x 20.5 are there on the first day; a
    device that is not turns up at the start of a later one."""
    day = Availability(10.0, 4.0, phase_spread=0.0, check_in=0.3)
    starts = [day.next_online(0.0, device, 0) for device in range(2000)]
    assert abs(sum(start == 0.0 for start in starts) - 600) < 103
    assert all(start % 10.0 == 0.0 for start in starts) and len(set(starts)) > 5


def test_a_trace_is_there_in_its_intervals_and_never_again_after_the_last() -> None:
    trace = AvailabilityTrace((((1.0, 2.0), (5.0, 9.0)), ((0.0, 3.0),)))
    asked = (0.0, 1.5, 2.0, 5.0, 8.9, 9.0, math.inf)
    assert [trace.next_online(at, 0, 0) for at in asked] == [1.0, 1.5, 5.0, 5.0, 8.9, math.inf, math.inf]
    assert [trace.next_online(2.5, device, 0) for device in range(4)] == [5.0, 2.5, 5.0, 2.5], "in turn"
    assert trace.online_until(10) == 9.0


def test_a_trace_that_begins_again_has_no_end() -> None:
    """There in [1, 2) and [5, 9) of every 10 s."""
    trace = AvailabilityTrace((((1.0, 2.0), (5.0, 9.0)),), period=10.0)
    assert [trace.next_online(at, 0, 0) for at in (9.0, 11.5, 12.0, 1001.0)] == [11.0, 11.5, 15.0, 1001.0]
    assert trace.online_until(1) == math.inf and trace.next_online(math.inf, 0, 0) == math.inf


@given(st.one_of(windows(), traces()), TIMES, st.integers(0, 10**9), st.integers(0, 2**62))
def test_a_device_starts_at_a_time_when_it_is_there(
    hours: Presence, at: float, device: int, seed: int
) -> None:
    """And not before it is asked; asked again then, it is there at once; the answer is always the same."""
    start = hours.next_online(at, device, seed)
    assert at <= start == hours.next_online(at, device, seed)
    assert hours.next_online(start, device, seed) == start


@given(windows(), TIMES, st.integers(0, 10**9))
def test_a_start_lies_in_a_window_and_the_next_one_is_missed_only_by_who_does_not_check_in(
    day: Availability, at: float, device: int
) -> None:
    start = day.next_online(at, device, 0)
    slack = 1e-9 * (start + day.period)  # of floating point
    into = (start + shift(device, day)) % day.period
    assert into < day.up + slack or into > day.period - slack
    if day.check_in == 1.0:
        assert start <= at + day.period - day.up + slack


@given(traces(), TIMES, st.integers(0, 10**9))
def test_a_start_lies_in_an_interval_of_the_devices_row(
    trace: AvailabilityTrace, at: float, device: int
) -> None:
    """Against a search through every interval, of as many cycles as are needed."""
    row = trace.rows[device % len(trace.rows)]
    start = trace.next_online(at, device, 0)
    began = [0.0] if trace.period is None else [(at // trace.period + k) * trace.period for k in range(3)]
    later = [max(at, b + opens) for b in began for opens, closes in row if b + closes > at]
    assert start == min(later, default=math.inf)


@given(windows(), st.lists(TIMES, min_size=2, max_size=20))
def test_time_never_runs_backwards(day: Availability, times: list[float]) -> None:
    """Who is asked later never starts earlier."""
    fleet = SimulatedFleet(1, availability=day)
    starts = [fleet.visit(Errand(0, 1, at), 0).start for at in sorted(times)]
    assert starts == sorted(starts)


@pytest.mark.parametrize("huge", [1e17, 1e300])
def test_where_time_is_coarser_than_a_window_a_device_is_there(huge: float) -> None:
    assert Availability(10.0, 4.0).next_online(huge, 0, 0) == huge
    assert AvailabilityTrace((((0.0, 1.0),),), period=2.0).next_online(huge, 0, 0) == huge


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Availability(0.0, 1.0), "period = 0.0"),
        (lambda: Availability(1.0, 2.0), "up = 2.0; expected at most the period, 1.0"),
        (lambda: Availability(2.0, math.nan), "up = nan"),
        (lambda: Availability(2.0, 1.0, phase_spread=1.5), "phase_spread = 1.5; expected a share"),
        (lambda: Availability(2.0, 1.0, phase_spread=math.nan), "phase_spread = nan"),
        (lambda: Availability(2.0, 1.0, check_in=0.0), "check_in = 0.0; expected a probability from 0.01"),
        (lambda: AvailabilityTrace(()), "no devices; expected at least one row"),
        (lambda: AvailabilityTrace(((),)), "row 0 has no interval; expected at least one"),
        (lambda: AvailabilityTrace((((0.0, 1.0),),), period=-1.0), "period = -1.0"),
        (lambda: AvailabilityTrace((((0.0, 1.0),), ((2.0, 1.0),))), "row 1: it ends at 1"),
        (lambda: AvailabilityTrace((((0.0, math.inf),),)), "row 0: got 0 to inf; expected finite"),
        (lambda: AvailabilityTrace((((0.0, math.nan),),)), "row 0: got 0 to nan"),
        (lambda: AvailabilityTrace((((2.0, 3.0), (0.0, 1.0)),)), "row 0: time runs backwards"),
    ],
)
def test_hours_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
