"""Where a device stands in its fleet: its class, and its tenth by slowness.

A fleet may have 10⁸ devices, so nothing is computed for all of them: a sample, taken evenly over the
ids, stands for the fleet. Up to `SAMPLED` devices the sample is the fleet, and tenths are exact. Devices
that are equally fast are ordered by their ids, so that tenths stay tenths where all devices are alike.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from fedlab.runtime.devices import EVERYBODY, Errand, Fleet

SAMPLED = 2000
"""Devices at most that stand for their fleet."""
TENTHS = 10
_CACHED = 2**17


class Standing:
    """Class and slowness of a fleet's devices, looked up when a device is first met.

    Args:
        fleet: None for a deployed Grid, of whose devices nothing is known.
        seed: the fleet's.
    """

    def __init__(self, fleet: Fleet | None, seed: int) -> None:
        self.fleet, self.seed = fleet, seed
        self.of = functools.lru_cache(maxsize=_CACHED)(self._of)

    def _of(self, device: int) -> tuple[str, int | None]:
        """The device's class, and its tenth: from 0, the fastest; None in too small a fleet."""
        if self.fleet is None or not self.sizes:
            return self.class_of(device), None
        rank = bisect_left(self._order, (self.seconds(device), device))
        return self.class_of(device), min(rank * TENTHS // len(self._order), TENTHS - 1)

    def class_of(self, device: int) -> str:
        """The name of the device's class."""
        named = getattr(self.fleet, "class_of", None)
        return EVERYBODY if named is None else str(named(device, self.seed))

    @functools.cached_property
    def sizes(self) -> list[float]:
        """Devices in each tenth, from the fastest to the slowest; [] in a fleet of fewer than ten."""
        if self.fleet is None or self.fleet.count < TENTHS:
            return []
        ranks = Counter(rank * TENTHS // len(self._order) for rank in range(len(self._order)))
        return [ranks[tenth] * self.fleet.count / len(self._order) for tenth in range(TENTHS)]

    @functools.cached_property
    def members(self) -> dict[str, float]:
        """Devices in each class, in the fleet's own order; estimated from the sample in large fleets."""
        if self.fleet is None:
            return {}
        found = Counter(self.class_of(device) for device in self._sample)
        names = [str(getattr(one, "name", one)) for one in getattr(self.fleet, "classes", ())] or [EVERYBODY]
        each = self.fleet.count / len(self._sample)
        return {name: found[name] * each for name in dict.fromkeys([*names, *sorted(found)])}

    @property
    def speeds(self) -> dict[str, float] | None:
        """Seconds that a message takes on the fastest, the median and the slowest device of the sample."""
        if self.fleet is None:
            return None
        order = [seconds for seconds, _ in self._order]
        return {"fastest": order[0], "median": order[len(order) // 2], "slowest": order[-1]}

    @property
    def _sample(self) -> Sequence[int]:
        count = 0 if self.fleet is None else self.fleet.count
        taken = min(count, SAMPLED)
        return [place * count // taken for place in range(taken)]

    @functools.cached_property
    def _order(self) -> list[tuple[float, int]]:
        """(seconds, device) of the sample, from the fastest to the slowest."""
        return sorted((self.seconds(device), device) for device in self._sample)

    def seconds(self, device: int) -> float:
        """Seconds that the device takes for a message, whatever its size; 0 if nothing is known."""
        if self.fleet is None:
            return 0.0
        nominal = getattr(self.fleet, "nominal", None)
        if nominal is None:  # a fleet of somebody's own
            return self.fleet.visit(Errand(device, 0, 0.0), self.seed).seconds
        return float(nominal(device, self.seed))
