"""Computing times: how they are spread over devices.

Each spread is its quantile function, so that a device's time follows from one number of the seed tree
and expected values can be written down.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

from fedlab.errors import UsageError
from fedlab.runtime.ranges import above_zero, at_least_zero
from fedlab.runtime.traces import read_trace as read_trace

AboveZero = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]
"""Ranges that a scenario is checked against; the constructors check them again."""

_NORMAL = statistics.NormalDist()


class ComputingTime(Protocol):
    """How the computing times of devices are spread."""

    def quantile(self, share: float) -> float:
        """Virtual seconds that `share` of the devices, between 0 and 1, do not exceed."""


@dataclass(frozen=True)
class Constant:
    """Every device takes the same time.

    Args:
        seconds: virtual seconds per message, at least 0.
    """

    seconds: AtLeastZero = 1.0

    def __post_init__(self) -> None:
        at_least_zero(seconds=self.seconds)

    def quantile(self, share: float) -> float:
        return self.seconds


@dataclass(frozen=True)
class HalfNormal:
    """`minimum` + |N(0, scale²)|: what the authors of FedBuff found to fit devices in production.

    Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022,
    https://arxiv.org/abs/2106.06639.

    Args:
        scale: standard deviation of the normal before its sign is dropped, in virtual seconds, above 0.
        minimum: virtual seconds that the fastest device takes, at least 0.
    """

    scale: AboveZero = 1.0
    minimum: AtLeastZero = 0.0

    def __post_init__(self) -> None:
        above_zero(scale=self.scale)
        at_least_zero(minimum=self.minimum)

    def quantile(self, share: float) -> float:
        return self.minimum + self.scale * _NORMAL.inv_cdf((1.0 + share) / 2.0)


@dataclass(frozen=True)
class LogNormal:
    """median · exp(N(0, sigma²)): many devices alike, and a long tail of slow ones.

    Args:
        median: virtual seconds that half of the devices do not exceed, above 0.
        sigma: standard deviation of the logarithm, above 0 and at most 10.
    """

    median: AboveZero = 1.0
    sigma: Annotated[float, Field(gt=0, le=10)] = 0.5

    def __post_init__(self) -> None:
        above_zero(median=self.median, sigma=self.sigma)
        if self.sigma > 10.0:
            raise UsageError(f"sigma = {self.sigma}; expected at most 10")

    def quantile(self, share: float) -> float:
        return self.median * math.exp(self.sigma * _NORMAL.inv_cdf(share))


@dataclass(frozen=True)
class Exponential:
    """`minimum` + an exponential time; with a minimum, the shifted exponential of straggler analyses.

    Args:
        mean: of the exponential part, in virtual seconds, above 0.
        minimum: virtual seconds that the fastest device takes, at least 0.
    """

    mean: AboveZero = 1.0
    minimum: AtLeastZero = 0.0

    def __post_init__(self) -> None:
        above_zero(mean=self.mean)
        at_least_zero(minimum=self.minimum)

    def quantile(self, share: float) -> float:
        return self.minimum - self.mean * math.log1p(-share)


TIMES: dict[str, Callable[..., ComputingTime]] = {
    "constant": Constant,
    "half-normal": HalfNormal,
    "log-normal": LogNormal,
    "exponential": Exponential,
}
"""Every spread of computing times by the name that a scenario gives it."""
