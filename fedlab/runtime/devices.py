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
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedlab.errors import UsageError
from fedlab.runtime.availability import Availability as Availability
from fedlab.runtime.availability import Presence
from fedlab.runtime.draws import share
from fedlab.runtime.ranges import above_zero, at_least_zero
from fedlab.runtime.times import ComputingTime, Constant

_ONE_SECOND = Constant()

EVERYBODY = "all"
"""The class of every device in a fleet without classes."""


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
        start: when the device starts, in virtual seconds; not before the errand's `at`; inf if it is never
            there again.
        seconds: from then on until its reply has arrived.
        silent: whether the device drops out on the way.

    Raises:
        UsageError: a duration that is negative or not finite, or a start that is not a number.
    """

    start: float
    seconds: float
    silent: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.seconds < math.inf:
            raise UsageError(f"a visit of {self.seconds} seconds; expected a finite number >= 0")
        if math.isnan(self.start):
            raise UsageError("a visit that starts at nan; expected virtual seconds, or inf for never")


class Fleet(Protocol):
    """The simulated devices."""

    @property
    def count(self) -> int:
        """How many devices there are."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes that devices belong to."""

    @property
    def online_until(self) -> float:
        """Virtual second from which on no device is ever there again; inf where they keep coming back."""

    def class_of(self, device: int, seed: int) -> str:
        """The class of a device, from 0; the same for the same device and seed."""

    def visit(self, errand: Errand, seed: int) -> Visit:
        """How the errand goes; the same for the same errand and seed."""

    def nominal(self, device: int, seed: int, size: int = 0) -> float:
        """Virtual seconds that training takes on the device when it need not wait, with arrays of `size`
        bytes; what tells fast devices from slow ones."""


def sample_nominal(fleet: Fleet, seed: int, count: int = 1000, size: int = 0) -> list[float]:
    """`Fleet.nominal` of up to `count` devices, spread evenly over the fleet and in their order.

    What a fleet of any size is like: shares of them estimate quantiles of slowness, and their mean a rate.

    Raises:
        UsageError: `count` is below 1.
    """
    if count < 1:
        raise UsageError(f"count = {count}; expected at least 1 device")
    taken = min(count, fleet.count)
    return [fleet.nominal(place * fleet.count // taken, seed, size) for place in range(taken)]


@dataclass(frozen=True)
class UniformFleet:
    """`count` devices that all take the same time, whatever they are asked."""

    count: int
    seconds: float = 1.0

    def __post_init__(self) -> None:
        _at_least_one_device(self.count)
        at_least_zero(seconds=self.seconds)

    @property
    def classes(self) -> tuple[str, ...]:
        return (EVERYBODY,)

    @property
    def online_until(self) -> float:
        return math.inf

    def class_of(self, device: int, seed: int) -> str:
        return EVERYBODY

    def visit(self, errand: Errand, seed: int) -> Visit:
        return Visit(errand.at, self.seconds)

    def nominal(self, device: int, seed: int, size: int = 0) -> float:
        return self.seconds


@dataclass(frozen=True)
class SimulatedFleet:
    """Devices that differ in speed, come and go, sit behind a network, and sometimes fall silent.

    Args:
        count: how many devices.
        time: how their computing times are spread; or the times themselves, in virtual seconds, which
            devices take in turn when there are more of them than times (`read_trace`).
        per_example: virtual seconds per record, beside `time`. A number is meant for a device of median
            speed: one that is twice as slow there is twice as slow here. A spread gives each device seconds
            per record of its own, from the same draw as its time: slow here is slow there.
        examples: records that a device works through for one message, as a function of the device or
            one number each; queries touch none.
        redraw: whether a device's speed is drawn anew for each message, as in models of stragglers whom
            nobody knows beforehand, instead of once.
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
    per_example: float | ComputingTime = 0.0
    examples: Callable[[int], int] | Sequence[int] | None = None
    download_mbps: float | None = None
    upload_mbps: float | None = None
    dropout: float = 0.0
    availability: Presence | None = None
    redraw: bool = False

    def __post_init__(self) -> None:
        _at_least_one_device(self.count)
        if not callable(getattr(self.per_example, "quantile", None)):
            at_least_zero(per_example=self.per_example)  # type: ignore[arg-type]
        if self.per_example != 0.0 and self.examples is None:
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

    @property
    def classes(self) -> tuple[str, ...]:
        return (EVERYBODY,)

    @functools.cached_property
    def online_until(self) -> float:
        return math.inf if self.availability is None else self.availability.online_until(self.count)

    def class_of(self, device: int, seed: int) -> str:
        return EVERYBODY

    def visit(self, errand: Errand, seed: int) -> Visit:
        device, start = errand.device, errand.at
        if self.availability is not None and start < math.inf:
            start = self.availability.next_online(start, device, seed)
        speed = share(seed, device, "speed", *((errand.message,) if self.redraw else ()))
        seconds = self._computing(device, errand.kind, speed) + self._transfers(errand.size, errand.kind)
        silent = self.dropout > 0.0 and share(seed, device, "dropout", errand.message) < self.dropout
        return Visit(start, seconds, silent)

    def nominal(self, device: int, seed: int, size: int = 0) -> float:
        speed = 0.5 if self.redraw else share(seed, device, "speed")
        return self._computing(device, "train", speed) + self._transfers(size, "train")

    def _computing(self, device: int, kind: str, speed: float) -> float:
        """`speed` is the share of devices that are faster."""
        if isinstance(self.time, Sequence):
            own = float(self.time[device % len(self.time)])
        else:
            own = self.time.quantile(speed)
        if self.per_example == 0.0 or self.examples is None or kind == "query":
            return own
        records = self.examples(device) if callable(self.examples) else self.examples[device]
        if not isinstance(self.per_example, int | float):
            return own + records * self.per_example.quantile(speed)
        slowness = own / self._median if self._median > 0.0 else 1.0
        return own + records * self.per_example * slowness

    def _transfers(self, size: int, kind: str) -> float:
        seconds = 0.0
        if self.download_mbps is not None:
            seconds += size * 8e-6 / self.download_mbps
        if self.upload_mbps is not None and kind == "train":
            seconds += size * 8e-6 / self.upload_mbps
        return seconds

    @functools.cached_property
    def _median(self) -> float:
        if isinstance(self.time, Sequence):
            return float(statistics.median(self.time))
        return self.time.quantile(0.5)


def _at_least_one_device(count: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UsageError(f"a fleet needs at least one device, got {count!r}; expected an integer")
