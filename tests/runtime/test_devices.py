"""Simulated devices: exact times, lazy draws."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedlab.errors import UsageError
from fedlab.runtime.devices import (
    Availability,
    Errand,
    SimulatedFleet,
    UniformFleet,
    Visit,
    sample_nominal,
)
from fedlab.runtime.times import TIMES, Constant, Exponential, HalfNormal, LogNormal


def visit(fleet: SimulatedFleet, device: int = 0, message: int = 1, seed: int = 0, **errand: Any) -> Visit:
    return fleet.visit(Errand(device, message, **({"at": 0.0} | errand)), seed)


def test_quantiles_are_those_of_the_textbook() -> None:
    """|N(0, 1)| stays below 0.674490 with probability 1/2 and below 1.959964 with 0.95; the median of an
    exponential is ln 2 times its mean; N(0, 1) stays below 1 with probability 0.841345."""
    assert Constant(3.0).quantile(0.1) == Constant(3.0).quantile(0.9) == 3.0
    assert HalfNormal(2.0).quantile(0.5) == pytest.approx(2.0 * 0.674490, rel=1e-6)
    assert HalfNormal(2.0, minimum=0.1).quantile(0.95) == pytest.approx(0.1 + 2.0 * 1.959964, rel=1e-6)
    assert Exponential(5.0, minimum=1.0).quantile(0.5) == pytest.approx(1.0 + 5.0 * math.log(2.0))
    assert LogNormal(4.0, sigma=0.3).quantile(0.5) == pytest.approx(4.0)
    assert LogNormal(4.0, sigma=0.3).quantile(0.841345) == pytest.approx(4.0 * math.exp(0.3), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in TIMES if name != "constant"])
def test_devices_are_spread_as_they_should_be_and_each_seed_draws_others(name: str) -> None:
    """A tenth of 4,000 devices lies between neighbouring deciles: 400 +- 5 standard deviations of 19."""
    spread = TIMES[name]()
    fleet = SimulatedFleet(4000, time=spread)
    seconds = [visit(fleet, device).seconds for device in range(4000)]
    edges = [spread.quantile(tenth / 10) for tenth in range(1, 10)]
    counts = [
        sum(low < s <= high for s in seconds)
        for low, high in zip([-1.0, *edges], [*edges, math.inf], strict=True)
    ]
    assert all(abs(count - 400) < 95 for count in counts), counts
    assert visit(fleet, 7, seed=1) != visit(fleet, 7, seed=0)


def test_a_device_keeps_its_speed_and_no_draw_depends_on_another() -> None:
    fleet = SimulatedFleet(10**9, time=HalfNormal(), dropout=0.5)
    first = visit(fleet, 999_999_999, message=5)
    for device in range(20):
        visit(fleet, device)
    assert visit(fleet, 999_999_999, message=5) == first
    assert visit(fleet, 999_999_999, message=6).seconds == first.seconds
    assert len({visit(fleet, 3, message).silent for message in range(20)}) == 2, "dropping out is per message"


def test_records_cost_time_by_the_devices_own_speed_and_queries_touch_none() -> None:
    """Times 1, 2 and 6: the median is 2. A device of 6 is three times as slow as that one, so that its
    10 records of 0.5 s take 15 s; the device of 1 needs 20 * 0.5 / 2 = 5 s for its 20."""
    fleet = SimulatedFleet(3, time=(1.0, 2.0, 6.0), per_example=0.5, examples=[20, 10, 10])
    assert [visit(fleet, device).seconds for device in range(3)] == [1.0 + 5.0, 2.0 + 5.0, 6.0 + 15.0]
    assert visit(fleet, 2, kind="evaluate").seconds == 21.0 and visit(fleet, 2, kind="query").seconds == 6.0
    still = SimulatedFleet(2, time=Constant(0.0), per_example=0.5, examples=lambda device: 4 * device)
    assert [visit(still, device).seconds for device in range(2)] == [0.0, 2.0]


def test_seconds_per_record_may_have_a_spread_of_their_own() -> None:
    """The measured setup of asynchronous FL: 0.1 + |N| n / 50 with one |N| per device, so that a half-normal
    time without records tells |N|, and 25 and 300 records cost half and six times of it more."""
    plain = SimulatedFleet(2, time=HalfNormal(1.0))
    fleet = SimulatedFleet(2, time=Constant(0.1), per_example=HalfNormal(1 / 50), examples=[25, 300])
    drawn = [visit(plain, device).seconds for device in range(2)]
    assert visit(fleet, 0).seconds == pytest.approx(0.1 + drawn[0] / 2)
    assert visit(fleet, 1).seconds == pytest.approx(0.1 + drawn[1] * 6)
    assert visit(fleet, 1, message=7) == visit(fleet, 1) and visit(fleet, 1, kind="query").seconds == 0.1


def test_a_speed_that_is_redrawn_differs_from_message_to_message_and_is_nominally_the_median() -> None:
    fleet = SimulatedFleet(3, time=Exponential(2.0), redraw=True)
    assert len({visit(fleet, 1, message).seconds for message in range(50)}) == 50
    assert visit(fleet, 1, 7) == visit(fleet, 1, 7)
    assert fleet.nominal(1, 0) == fleet.nominal(2, 0) == pytest.approx(2.0 * math.log(2.0))


def test_nominal_seconds_are_those_of_training_without_waiting() -> None:
    """1,000,000 bytes take 0.8 s down and 4 s up; the device is away until 10."""
    fleet = SimulatedFleet(
        3,
        time=(1.0, 2.0, 6.0),
        per_example=0.5,
        examples=[20, 10, 10],
        download_mbps=10.0,
        upload_mbps=2.0,
        availability=Availability(10.0, 1.0, phase_spread=0.0),
    )
    away = visit(fleet, 2, at=5.0, size=1_000_000)
    assert (away.start, away.seconds) == (10.0, pytest.approx(21.0 + 4.8))
    assert fleet.nominal(2, 0, 1_000_000) == away.seconds and fleet.nominal(2, 0) == 21.0
    assert sample_nominal(fleet, 0) == [6.0, 7.0, 21.0] and sample_nominal(fleet, 0, count=2) == [6.0, 7.0]
    assert UniformFleet(10**9, 3.0).nominal(5, 0) == 3.0
    with pytest.raises(UsageError, match="count = 0"):
        sample_nominal(fleet, 0, count=0)


def test_the_network_takes_its_time_and_only_training_sends_arrays_back() -> None:
    """1,000,000 bytes are 8 megabits: 0.8 s down at 10 a second, 4 s up at 2 a second."""
    fleet = SimulatedFleet(1, time=Constant(1.0), download_mbps=10.0, upload_mbps=2.0)
    assert visit(fleet, size=1_000_000).seconds == pytest.approx(1.0 + 0.8 + 4.0)
    assert visit(fleet, size=1_000_000, kind="evaluate").seconds == pytest.approx(1.0 + 0.8)
    assert visit(fleet, size=0, kind="query").seconds == 1.0


def test_each_device_has_a_day_of_its_own() -> None:
    """Of 1,000 devices that are up a third of the time, a third start at once: 333 +- 5 * 15."""
    fleet = SimulatedFleet(1000, availability=Availability(period=3.0, up=1.0))
    starts = [visit(fleet, device).start for device in range(1000)]
    assert 258 < sum(start == 0.0 for start in starts) < 408
    assert all(0.0 <= start <= 2.0 for start in starts)


def test_drop_out_happens_as_often_as_it_should() -> None:
    """2,000 messages at 0.3: 600 +- 5 * 20.5."""
    fleet = SimulatedFleet(1, dropout=0.3)
    assert abs(sum(visit(fleet, message=m).silent for m in range(2000)) - 600) < 103


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniformFleet(0), "at least one device, got 0"),
        (lambda: UniformFleet(1, math.nan), "seconds = nan"),
        (lambda: SimulatedFleet(0), "at least one device, got 0"),
        (lambda: SimulatedFleet(1, per_example=-1.0), "per_example = -1.0; expected a finite number >= 0"),
        (lambda: SimulatedFleet(1, per_example=HalfNormal()), "without examples"),
        (lambda: SimulatedFleet(1, per_example="slow"), "per_example = 'slow'"),  # type: ignore[arg-type]
        (lambda: Visit(0.0, -1.0), "a visit of -1.0 seconds; expected a finite number >= 0"),
        (lambda: Visit(0.0, math.nan), "a visit of nan seconds"),
        (lambda: Visit(0.0, math.inf), "a visit of inf seconds"),
        (lambda: Visit(math.nan, 1.0), "starts at nan; expected virtual seconds, or inf for never"),
        (lambda: SimulatedFleet(1, per_example=1.0), "without examples; expected the records of each device"),
        (lambda: SimulatedFleet(2, examples=[1]), "examples of 1 devices; expected 2"),
        (lambda: SimulatedFleet(1, time=()), "no times; expected at least one"),
        (lambda: SimulatedFleet(1, time=(1.0, math.inf)), "seconds = inf"),
        (lambda: SimulatedFleet(1, download_mbps=0.0), "download_mbps = 0.0; expected a finite number > 0"),
        (lambda: SimulatedFleet(1, upload_mbps=math.nan), "upload_mbps = nan"),
        (lambda: SimulatedFleet(1, dropout=1.0), "dropout = 1.0; expected at least 0 and below 1"),
        (lambda: SimulatedFleet("ten"), "at least one device, got 'ten'; expected an integer"),  # type: ignore[arg-type]
        (lambda: SimulatedFleet(10, time=5), "time = 5; expected a spread"),  # type: ignore[arg-type]
        (lambda: SimulatedFleet(10, time=["a"]), "seconds = 'a'; expected a finite number"),  # type: ignore[list-item]
        (lambda: Constant(-1.0), "seconds = -1.0"),
        (lambda: HalfNormal(0.0), "scale = 0.0; expected a finite number > 0"),
        (lambda: HalfNormal(1.0, minimum=-1.0), "minimum = -1.0"),
        (lambda: LogNormal(1.0, sigma=11.0), "sigma = 11.0; expected at most 10"),
        (lambda: LogNormal(math.inf), "median = inf"),
        (lambda: Exponential(0.0), "mean = 0.0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        make()
