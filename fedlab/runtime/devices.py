"""Simulated devices: when each starts on a message, how long it takes, and whether it falls silent.

A fleet is a pure function of the seed: every draw comes from (seed, "device", device, purpose), at the
moment when it is asked for. A million devices cost nothing until they are used, and no answer depends
on what was asked before. Slow devices stay slow: a device's speed is drawn once, as in FLSim's
per-user durations, so that whoever always waits for the first replies hears the same clients.

A message takes, in this order: the wait until the device is free and there; the download; the
computing; the upload. The upload is taken to be as large as the download, because the reply does not
exist yet when its arrival is fixed: work is executed late, in cohorts.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedlab.errors import UsageError
from fedlab.runtime.times import ComputingTime, Constant, above_zero, at_least_zero
from fedlab.seeds import derive

_ONE_SECOND = Constant()


@dataclass(frozen=True, slots=True)
class Errand:
    """What a device is asked to do.

    Attributes:
        device: from 0.
        message: sequence number of the message in its run, from 1.
        at: virtual seconds from which the device is free for it.
        kind: Flower's category: "train", "evaluate" or "query".
        size: bytes of the arrays in the message.
    """

    device: int
    message: int
    at: float
    kind: str = "train"
    size: int = 0


@dataclass(frozen=True, slots=True)
class Visit:
    """How an errand goes.

    Attributes:
        start: when the device starts, in virtual seconds; not before the errand's `at`.
        seconds: from then on until its reply has arrived.
        silent: whether the device drops out on the way.
    """

    start: float
    seconds: float
    silent: bool = False


class Fleet(Protocol):
    """The simulated devices."""

    @property
    def count(self) -> int:
        """How many devices there are."""

    def visit(self, errand: Errand, seed: int) -> Visit:
        """How the errand goes; the same for the same errand and seed."""


@dataclass(frozen=True)
class Availability:
    """Each device is there for `up` of every `period` virtual seconds, with a phase of its own.

    Work that is sent while a device is away starts when it is back; what has started is finished.
    """

    period: float = 86400.0
    up: float = 28800.0

    def __post_init__(self) -> None:
        above_zero(period=self.period, up=self.up)
        if self.up > self.period:
            raise UsageError(f"up = {self.up}; expected at most the period, {self.period}")

    def start(self, at: float, phase: float) -> float:
        """The first time from `at` on when a device whose day is shifted by `phase` periods is there."""
        into = (at + phase * self.period) % self.period
        return at if into < self.up else at + (self.period - into)


@dataclass(frozen=True)
class UniformFleet:
    """`count` devices that all take the same time, whatever they are asked."""

    count: int
    seconds: float = 1.0

    def __post_init__(self) -> None:
        _at_least_one_device(self.count)
        at_least_zero(seconds=self.seconds)

    def visit(self, errand: Errand, seed: int) -> Visit:
        return Visit(errand.at, self.seconds)


@dataclass(frozen=True)
class SimulatedFleet:
    """Devices that differ in speed, come and go, sit behind a network, and sometimes fall silent.

    Args:
        count: how many devices.
        time: how their computing times are spread; or the times themselves, in virtual seconds, which
            devices take in turn when there are more of them than times (`read_trace`).
        per_example: virtual seconds per record on a device of median speed, beside `time`; a device
            that is twice as slow there is twice as slow here.
        examples: records that a device works through for one message, as a function of the device or
            one number each; queries touch none.
        download_mbps, upload_mbps: megabits a second, or None where transfers take no time. Training
            replies are as large as what was sent; other replies carry no arrays.
        dropout: probability that a device falls silent while it works on a message. Its work never
            runs, and a failed reply arrives when the work would have been done.
        availability: when devices are there; always, if None.

    Raises:
        UsageError: a value out of range.
    """

    count: int
    time: ComputingTime | Sequence[float] = _ONE_SECOND
    per_example: float = 0.0
    examples: Callable[[int], int] | Sequence[int] | None = None
    download_mbps: float | None = None
    upload_mbps: float | None = None
    dropout: float = 0.0
    availability: Availability | None = None

    def __post_init__(self) -> None:
        _at_least_one_device(self.count)
        at_least_zero(per_example=self.per_example)
        if self.per_example > 0.0 and self.examples is None:
            raise UsageError("per_example is given without examples; expected the records of each device")
        if isinstance(self.examples, Sequence) and len(self.examples) != self.count:
            raise UsageError(f"examples of {len(self.examples)} devices; expected {self.count}")
        if isinstance(self.time, Sequence):
            if len(self.time) == 0:
                raise UsageError("no times; expected at least one")
            for seconds in self.time:
                at_least_zero(seconds=seconds)
        elif not callable(getattr(self.time, "quantile", None)):
            raise UsageError(
                f"time = {self.time!r}; expected a spread such as Constant(5.0), or a list of times, one per"
                " device"
            )
        for name, rate in (("download_mbps", self.download_mbps), ("upload_mbps", self.upload_mbps)):
            if rate is not None:
                above_zero(**{name: rate})
        if not 0.0 <= self.dropout < 1.0:
            raise UsageError(f"dropout = {self.dropout}; expected at least 0 and below 1")

    def visit(self, errand: Errand, seed: int) -> Visit:
        device, start = errand.device, errand.at
        if self.availability is not None:
            start = self.availability.start(start, _share(seed, device, "phase"))
        seconds = self._computing(device, errand.kind, seed)
        if self.download_mbps is not None:
            seconds += errand.size * 8e-6 / self.download_mbps
        if self.upload_mbps is not None and errand.kind == "train":
            seconds += errand.size * 8e-6 / self.upload_mbps
        silent = self.dropout > 0.0 and _share(seed, device, "dropout", errand.message) < self.dropout
        return Visit(start, seconds, silent)

    def _computing(self, device: int, kind: str, seed: int) -> float:
        if isinstance(self.time, Sequence):
            own = float(self.time[device % len(self.time)])
        else:
            own = self.time.quantile(_share(seed, device, "speed"))
        if self.per_example == 0.0 or self.examples is None or kind == "query":
            return own
        records = self.examples(device) if callable(self.examples) else self.examples[device]
        slowness = own / self._median if self._median > 0.0 else 1.0
        return own + records * self.per_example * slowness

    @functools.cached_property
    def _median(self) -> float:
        if isinstance(self.time, Sequence):
            return float(statistics.median(self.time))
        return self.time.quantile(0.5)


def _share(seed: int, device: int, *purpose: int | str) -> float:
    """A number drawn uniformly from (0, 1): 52 bits of the seed tree itself, which is cheaper by far
    than a generator that would be asked once."""
    return ((derive(seed, "device", device, *purpose) >> 11) + 0.5) / 2**52


def _at_least_one_device(count: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UsageError(f"a fleet needs at least one device, got {count!r}; expected an integer")
