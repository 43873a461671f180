"""Whether a mechanism does what is accounted for: statistical tests of its own code.

A lower bound on ε says little about small faults. What an accountant assumes of a release, clipped vectors
and Gaussian noise over a fixed denominator (`fedlab.privacy.releases`) of a Poisson sample of the records
(`fedlab.privacy.sampling`), can be looked at piece by piece instead, by calling the code that makes it with
vectors of one's choice. Each test is told what the ledger has, and not what the code says of its noise.

The levels are divided by the number of tests (Bonferroni), so that a right mechanism fails any of them with
probability `level` at most, up to the approximation of χ² where numbers are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fedlab.errors import UsageError
from fedlab.privacy.releases import Claim as Claim
from fedlab.privacy.releases import Release as Release
from fedlab.privacy.releases import Test, denominator, noise, sensitivity
from fedlab.privacy.sampling import Sampling as Sampling
from fedlab.privacy.sampling import batches

NUMBERS = 200_000
"""Noisy numbers that are looked at in each release."""


@dataclass(frozen=True)
class Check:
    """One test: its statistic, the chance of one so extreme if all is right, and what came of it."""

    name: str
    statistic: float | None
    p: float | None
    verdict: Literal["passed", "failed", "not tested"]
    words: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, where what is not finite is null."""
        figures = {"statistic": self.statistic, "p": self.p}
        return asdict(self) | {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in figures.items()
        }


def check(
    releases: Sequence[Release],
    samplings: Sequence[Sampling] = (),
    reaches: Sequence[Release] = (),
    *,
    generator: np.random.Generator,
    level: float = 0.01,
    numbers: int = NUMBERS,
) -> list[Check]:
    """Test them all.

    Args:
        reaches: releases of which sensitivity alone can be tested, because their vectors are not what is
            clipped, but records of which that is made.
        level: the chance that anything fails although all is right.
        numbers: noisy numbers that each release is looked at for.

    Raises:
        UsageError: a level outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"level = {level}; expected the chance of a false alarm, between 0 and 1, e.g. 0.01")
    found: list[Test] = []
    for release in releases:
        tests = [*noise(release, generator, numbers), sensitivity(release, generator)]
        found += _named(release.name, [*tests, denominator(release, generator)])
    for release in reaches:
        found += _named(release.name, [sensitivity(release, generator)])
    for sampling in samplings:
        found += _named(sampling.name, batches(sampling))
    return [
        Check(name, float(statistic), float(p), "failed" if p < level / len(found) else "passed", words)
        for name, statistic, p, words in found
    ]


def _named(name: str, tests: Sequence[Test]) -> list[Test]:
    return [(f"{name}: {test[0]}" if name else test[0], *test[1:]) for test in tests]
