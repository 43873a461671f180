"""Numbers as integers modulo 2^32 or 2^64, in which masks can hide them.

A number x becomes the integer round(clip(x) / step), |x| ≤ clip; a sum of n of them is exact as long as it
stays within the modulus, n · levels < 2^bits with levels = 2 clip / step. Rounding to the nearest costs at
most half a step for each number that is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab.errors import UsageError

FINEST = 2**48
"""Levels at most: beyond it, numbers in double precision have no such places any more."""


@dataclass(frozen=True)
class Quantiser:
    """A range of numbers as integers of `bits` bits.

    Attributes:
        clip: numbers beyond ±clip are set to it.
        levels: integers that the range is divided into; even.
        bits: 32 or 64.
    """

    clip: float
    levels: int
    bits: int

    @property
    def step(self) -> float:
        """What one integer stands for."""
        return 2.0 * self.clip / self.levels

    @property
    def most(self) -> int:
        """How many numbers can be added before a sum may leave the modulus."""
        return ((1 << self.bits) - 1) // self.levels

    def encode(self, values: NDArray[np.float64], factor: float = 1.0) -> NDArray[np.unsignedinteger[Any]]:
        """Integers of `factor` (0 to 1) times the clipped values."""
        clipped = np.clip(values, -self.clip, self.clip)
        kind: type[np.unsignedinteger[Any]] = np.uint32 if self.bits == 32 else np.uint64
        return np.rint(clipped * (factor / self.step)).astype(np.int64).astype(kind)

    def decode(self, total: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.float64]:
        """The sum that a sum of integers stands for."""
        signed = total.view(np.int32 if self.bits == 32 else np.int64)
        return signed.astype(np.float64) * self.step


def quantiser(clip: float, levels: int, bits: int | None, count: int) -> Quantiser:
    """That of a sum of `count` numbers; 32 bits if they are enough and nobody wants another number.

    Raises:
        UsageError: the sum may leave the modulus.
    """
    chosen = bits or (32 if count * levels < 2**32 else 64)
    found = Quantiser(clip, levels, chosen)
    if found.most < count:
        raise UsageError(
            f"secagg-plus levels = {levels:,} and bits = {chosen}: a sum of {count:,} updates may reach"
            f" {count * levels:,} and overflow 2^{chosen}; take at most {2**chosen // count:,} levels"
            + (", or bits = 64" if chosen == 32 else ", or a smaller cohort")
        )
    return found
