"""Device classes, and fleets of 10⁸ devices that are a handful of numbers."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlab.errors import UsageError
from fedlab.runtime import SimulationGrid
from fedlab.runtime.availability import Availability, AvailabilityTrace
from fedlab.runtime.classes import DeviceClass, MixedFleet
from fedlab.runtime.devices import Errand, Fleet, SimulatedFleet, UniformFleet, sample_nominal
from fedlab.runtime.times import Constant, HalfNormal
from tests.runtime.apps import adding_app


def phones(count: int, **slow: Any) -> MixedFleet:
    """A quarter old phones, which take 9 s, and three quarters of new ones, which take 2."""
    old = SimulatedFleet(count, time=Constant(9.0), **slow)
    return MixedFleet(
        [
            DeviceClass("old phones", 0.25, old),
            DeviceClass("new phones", 0.75, SimulatedFleet(count, time=Constant(2.0))),
        ]
    )


def test_classes_have_their_shares_and_what_a_device_does_is_its_classs_affair() -> None:
    """Of 4,000 devices 1,000 are old, +- 5 standard deviations of 27.4."""
    fleet = phones(4000, availability=AvailabilityTrace((((0.0, 7.0),),)))
    assert fleet.classes == ("old phones", "new phones") and fleet.count == 4000
    names = [fleet.class_of(device, 0) for device in range(4000)]
    assert abs(Counter(names)["old phones"] - 1000) < 137
    for device, name in enumerate(names[:50]):
        visit = fleet.visit(Errand(device, 1, 8.0), 0)
        assert visit.seconds == fleet.nominal(device, 0) == (9.0 if name == "old phones" else 2.0)
        assert visit.start == (float("inf") if name == "old phones" else 8.0)
    assert [fleet.class_of(device, 1) for device in range(4000)] != names
    assert fleet.online_until == float("inf")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**62))
def test_shares_are_kept_whatever_they_are(parts: list[int], seed: int) -> None:
    """Each of 1,000 devices has a class; of share p, 1000 p are, +- 6 standard deviations."""
    shares = [part / sum(parts) for part in parts]
    fleet = MixedFleet(
        [DeviceClass(str(place), share, UniformFleet(1000)) for place, share in enumerate(shares)]
    )
    found = Counter(fleet.class_of(device, seed) for device in range(1000))
    for place, share in enumerate(shares):
        assert abs(found[str(place)] - 1000 * share) <= 6 * (1000 * share * (1 - share)) ** 0.5 + 1e-9


@given(st.integers(0, 10**8 - 1), st.integers(0, 2**62), st.floats(0, 1e9), st.integers(1, 10**9))
def test_a_visit_is_a_pure_function(device: int, seed: int, at: float, message: int) -> None:
    """Two fleets, one of which was asked for other things before, agree; the device starts when it is free
    or later."""
    one, other = enormous(), enormous()
    other.visit(Errand(3, 8, 1.0), seed)
    other.class_of(5, seed)
    errand = Errand(device, message, at, size=1000)
    visit = one.visit(errand, seed)
    assert visit == other.visit(errand, seed) and visit.start >= at and visit.seconds > 0.0
    assert one.class_of(device, seed) == other.class_of(device, seed)


def enormous(count: int = 10**8) -> Fleet:
    def alike(**own: Any) -> SimulatedFleet:
        return SimulatedFleet(
            count,
            time=HalfNormal(3.0, 0.1),
            per_example=HalfNormal(0.02),
            examples=lambda device: 10 + device % 7,
            upload_mbps=1.0,
            dropout=0.1,
            **own,
        )

    always, nightly = alike(), alike(availability=Availability(phase_spread=0.3))
    return MixedFleet([DeviceClass("tablets", 0.4, always), DeviceClass("phones", 0.6, nightly)])


def test_a_hundred_million_devices_take_no_more_memory_than_a_thousand() -> None:
    """A list of them would take 800 MB; everything that one asks of them stays below 1 MB."""
    peaks = []
    for count in (1000, 10**8):
        tracemalloc.start()
        grid = SimulationGrid(adding_app(), enormous(count))
        nodes = grid.get_node_ids()
        for node in (nodes[0], nodes[-1], nodes[count // 2]):
            grid.available(node)
            grid.fleet.class_of(node - nodes[0], 0)
        assert len(nodes) == count and len(sample_nominal(grid.fleet, 0, 500)) == 500
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1_000_000 and peaks[1] < 2 * peaks[0] + 50_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixedFleet([]), "no device classes"),
        (lambda: DeviceClass("a", 0.0, UniformFleet(1)), "share = 0.0; expected a finite number > 0"),
        (lambda: DeviceClass("a", 1.5, UniformFleet(1)), "share = 1.5; expected at most 1"),
        (lambda: MixedFleet([DeviceClass("a", 0.5, UniformFleet(1))]), "sum to 0.5; expected 1"),
        (lambda: MixedFleet([DeviceClass("a", 0.5, UniformFleet(1))] * 2), "class 'a' is given twice"),
        (
            lambda: MixedFleet(
                [DeviceClass("a", 0.5, UniformFleet(1)), DeviceClass("b", 0.5, UniformFleet(2))]
            ),
            "fleets of 1 and of 2 devices",
        ),
    ],
)
def test_classes_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
