"""Device classes: a fleet of old phones, new phones and tablets, each with a share of the devices.

Which class a device belongs to follows from (seed, device) alone, like everything about it: a fleet of
10⁸ devices is a handful of numbers.
"""

from __future__ import annotations

import functools
import itertools
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fedlab.errors import UsageError
from fedlab.runtime.devices import Errand, Fleet, Visit
from fedlab.runtime.draws import share
from fedlab.runtime.ranges import above_zero


@dataclass(frozen=True)
class DeviceClass:
    """A share of a fleet, and what its devices are like.

    Args:
        name: how reports call it.
        share: of the fleet's devices, above 0 and at most 1: the probability that a device is of this class.
        fleet: what a device does if it is of this class; as many devices as the whole fleet.

    Raises:
        UsageError: a share out of range.
    """

    name: str
    share: float
    fleet: Fleet

    def __post_init__(self) -> None:
        above_zero(share=self.share)
        if self.share > 1.0:
            raise UsageError(f"share = {self.share}; expected at most 1")


@dataclass(frozen=True)
class MixedFleet:
    """Devices of several classes.

    Args:
        members: the classes; their names differ, their shares sum to 1, their fleets are equally large.

    Raises:
        UsageError: they are or do not.
    """

    members: Sequence[DeviceClass]

    def __post_init__(self) -> None:
        if not self.members:
            raise UsageError("no device classes; expected at least one")
        twice = [name for name, times in Counter(self.classes).items() if times > 1]
        if twice:
            raise UsageError(f"device class {twice[0]!r} is given twice; expected different names")
        if not sums_to_one([one.share for one in self.members]):
            raise UsageError(f"shares of device classes sum to {self._bounds[-1]:g}; expected 1")
        counts = {one.fleet.count for one in self.members}
        if len(counts) > 1:
            raise UsageError(
                f"fleets of {min(counts)} and of {max(counts)} devices; expected equally many for each class"
            )

    @property
    def count(self) -> int:
        return self.members[0].fleet.count

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.members)

    @functools.cached_property
    def online_until(self) -> float:
        return max(one.fleet.online_until for one in self.members)

    @functools.cached_property
    def _bounds(self) -> list[float]:
        return list(itertools.accumulate(one.share for one in self.members))

    def class_of(self, device: int, seed: int) -> str:
        return self._member(device, seed).name

    def visit(self, errand: Errand, seed: int) -> Visit:
        return self._member(errand.device, seed).fleet.visit(errand, seed)

    def nominal(self, device: int, seed: int, size: int = 0) -> float:
        return self._member(device, seed).fleet.nominal(device, seed, size)

    def _member(self, device: int, seed: int) -> DeviceClass:
        place = bisect_right(self._bounds, share(seed, device, "class"))
        return self.members[min(place, len(self.members) - 1)]  # where shares sum to a little less than 1


def sums_to_one(shares: Sequence[float]) -> bool:
    """Whether shares are all of a fleet, up to what decimals leave out."""
    return math.isclose(math.fsum(shares), 1.0, abs_tol=1e-6)
