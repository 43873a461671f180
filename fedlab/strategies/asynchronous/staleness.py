"""What an update counts that started from an older model.

Staleness s is the number of models that the server has made since the client got its own. Xie, Koyejo,
Gupta, "Asynchronous Federated Optimization", 2019, https://arxiv.org/abs/1903.03934, section 5.2 (constant,
polynomial, hinge); threshold as in FLSim, the reference code of FedBuff.

Deviation from FLSim: a fresh update counts 1 (there the weights are divided by that of an average staleness).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field

from fedlab.errors import PluginError, UsageError

AtLeastZero = Annotated[int, Field(ge=0)]


@runtime_checkable
class Staleness(Protocol):
    """The weight of stale updates."""

    def weight(self, staleness: int) -> float:
        """From 0 to 1, for a staleness from 0."""


@dataclass(frozen=True)
class Constant:
    """w(s) = 1: every update counts alike.

    Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", 2019, https://arxiv.org/abs/1903.03934.
    """

    def weight(self, staleness: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Polynomial:
    """w(s) = (1 + s)^-a; with a = 1/2 it is FedBuff's 1 / √(1 + s).

    Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", 2019, https://arxiv.org/abs/1903.03934.

    Args:
        exponent: a, above 0.
    """

    exponent: Annotated[float, Field(gt=0)] = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.exponent < math.inf:
            raise UsageError(f"exponent = {self.exponent}; expected a finite number above 0")

    def weight(self, staleness: int) -> float:
        return float((1.0 + staleness) ** -self.exponent)


@dataclass(frozen=True)
class Threshold:
    """w(s) = 1 up to the cutoff, and a fixed value beyond.

    Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022,
    https://arxiv.org/abs/2106.06639 (its code).

    Args:
        cutoff: the largest staleness that counts in full.
        value: what an update beyond it counts, from 0 to 1.
    """

    cutoff: AtLeastZero
    value: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        if self.cutoff < 0:
            raise UsageError(f"cutoff = {self.cutoff}; expected at least 0")
        if not 0.0 <= self.value <= 1.0:
            raise UsageError(f"value = {self.value}; expected a number from 0 to 1")

    def weight(self, staleness: int) -> float:
        return 1.0 if staleness <= self.cutoff else self.value


@dataclass(frozen=True)
class Hinge:
    """w(s) = 1 for s ≤ b, else 1 / (a (s − b) + 1).

    Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", 2019, https://arxiv.org/abs/1903.03934.

    Args:
        a: how quickly the weight falls, above 0.
        b: the largest staleness that counts in full.
    """

    a: Annotated[float, Field(gt=0)] = 10.0
    b: AtLeastZero = 4

    def __post_init__(self) -> None:
        if not 0.0 < self.a < math.inf:
            raise UsageError(f"a = {self.a}; expected a finite number above 0")
        if self.b < 0:
            raise UsageError(f"b = {self.b}; expected at least 0")

    def weight(self, staleness: int) -> float:
        return 1.0 if staleness <= self.b else 1.0 / (self.a * (staleness - self.b) + 1.0)


def weighed(staleness: Staleness, value: int) -> float:
    """The weight, checked.

    Raises:
        PluginError: it is no number from 0 to 1.
    """
    found = staleness.weight(value)
    if not isinstance(found, int | float) or not 0.0 <= found <= 1.0:
        raise PluginError(
            f"{type(staleness).__name__}.weight({value}) = {str(found)[:60]}; expected a number from 0 to 1"
        )
    return float(found)
