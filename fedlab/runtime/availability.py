"""When devices are there: windows that repeat every day, or the intervals of a trace.

Both are pure functions of (seed, device): nothing is kept per device, and no answer depends on what was
asked before. What is returned is a time at which the device is there, exactly: asked again at that time,
the answer is that time.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fedlab.errors import UsageError
from fedlab.runtime.draws import share
from fedlab.runtime.ranges import above_zero

LEAST_CHECK_IN = 0.01
"""Below this probability a device would be looked for through thousands of days."""

Interval = tuple[float, float]
"""[start, end) in virtual seconds."""


class Presence(Protocol):
    """When the devices of a fleet are there."""

    def next_online(self, at: float, device: int, seed: int) -> float:
        """The first time from `at` on at which the device is there; inf if it never is again."""

    def online_until(self, count: int) -> float:
        """From when on none of `count` devices is ever there again; inf where they keep coming back."""


@dataclass(frozen=True)
class Availability:
    """Each device is there for `up` of every `period` virtual seconds, with a phase of its own.

    Work that is sent while a device is away starts when it is back; what has started is finished.

    Args:
        period: length of a day, in virtual seconds, above 0.
        up: for how many of them a device is there, above 0 and at most the period.
        phase_spread: share of the day over which the devices' phases are spread, from 0 to 1. At 1 there
            are as many devices at any time; at 0 all come and go together, as if they lived in one time
            zone; below 1 - up / period there is a time of each day when nobody is there.
        check_in: probability, from 0.01 to 1, that a device turns up in a window at all; drawn for each.

    Raises:
        UsageError: a value out of range.
    """

    period: float = 86400.0
    up: float = 28800.0
    phase_spread: float = 1.0
    check_in: float = 1.0

    def __post_init__(self) -> None:
        above_zero(period=self.period, up=self.up)
        if self.up > self.period:
            raise UsageError(f"up = {self.up}; expected at most the period, {self.period}")
        if not 0.0 <= self.phase_spread <= 1.0:
            raise UsageError(f"phase_spread = {self.phase_spread}; expected a share of the period, 0 to 1")
        if not LEAST_CHECK_IN <= self.check_in <= 1.0:
            raise UsageError(f"check_in = {self.check_in}; expected a probability from {LEAST_CHECK_IN} to 1")

    def next_online(self, at: float, device: int, seed: int) -> float:
        """The first time from `at` on at which the device is there."""
        phase = self.phase_spread * share(seed, device, "phase") if self.phase_spread else 0.0
        shift = phase * self.period
        if at + self.up == at:  # time itself is coarser than a window
            return at
        day = math.floor((at + shift) / self.period)
        while not (at < day * self.period - shift + self.up and self._checks_in(seed, device, day)):
            day += 1
        return max(at, day * self.period - shift)

    def _checks_in(self, seed: int, device: int, day: int) -> bool:
        return self.check_in == 1.0 or share(seed, device, "check-in", day) < self.check_in

    def online_until(self, count: int) -> float:
        """There is always another day."""
        return math.inf


@dataclass(frozen=True)
class AvailabilityTrace:
    """Intervals in which devices were seen, as in FedScale's and LiveLab's traces.

    Lai et al., "FedScale: Benchmarking Model and System Performance of Federated Learning at Scale",
    ICML 2022, https://arxiv.org/abs/2105.11367. Unlike there, what has started when an interval ends is
    finished.

    Args:
        rows: for each device its intervals (start, end), in virtual seconds and ascending, which do not
            overlap; devices of a larger fleet take them in turn (`fedlab.runtime.traces.read_availability`).
        period: virtual seconds after which the trace begins again; it happens once, if None, and who has
            been through its row is never back.

    Raises:
        UsageError: intervals that are not as they should be.
    """

    rows: Sequence[Sequence[Interval]]
    period: float | None = None

    def __post_init__(self) -> None:
        if self.period is not None:
            above_zero(period=self.period)
        if not self.rows:
            raise UsageError("no devices; expected at least one row of intervals")
        for row, intervals in enumerate(self.rows):
            if not intervals:
                raise UsageError(f"row {row} has no interval; expected at least one, as in (0.0, 3600.0)")
            before: Interval | None = None
            for one in intervals:
                if told := fault(one, before, self.period):
                    raise UsageError(f"row {row}: {told}")
                before = one

    def next_online(self, at: float, device: int, seed: int) -> float:
        """The first time from `at` on at which the device is there; inf if it never is again."""
        row = self.rows[device % len(self.rows)]
        if self.period is None:
            return _within(row, at, 0.0)
        if at + self.period == at:  # time itself is coarser than the trace
            return at
        cycle = math.floor(at / self.period)
        while (found := _within(row, at, cycle * self.period)) == math.inf:
            cycle += 1
        return found

    def online_until(self, count: int) -> float:
        """The end of the last interval, where the trace happens once."""
        if self.period is not None:
            return math.inf
        return max(row[-1][1] for row in self.rows[:count])


def _within(row: Sequence[Interval], at: float, began: float) -> float:
    """The first time from `at` on that lies in an interval of a row that began then."""
    place = bisect_right(row, at, key=lambda interval: began + interval[1])
    return max(at, began + row[place][0]) if place < len(row) else math.inf


def fault(interval: Interval, before: Interval | None, period: float | None) -> str:
    """What is wrong with an interval of a device after the one before it; nothing if it is sound."""
    start, end = interval
    if not 0.0 <= start < math.inf or not 0.0 <= end < math.inf:
        return f"got {start:g} to {end:g}; expected finite virtual seconds >= 0"
    if end <= start:
        return f"it ends at {end:g} and starts at {start:g}; expected an end after the start"
    if before is not None and start < before[0]:
        return (
            f"time runs backwards: it starts at {start:g}, after one that starts at {before[0]:g};"
            " expected a device's intervals in ascending order"
        )
    if before is not None and start < before[1]:
        return f"it starts at {start:g}, before the one before it ends, at {before[1]:g}; join the two"
    if period is not None and end > period:
        return f"it ends at {end:g}, but the trace begins again after {period:g}; expected a longer period"
    return ""
