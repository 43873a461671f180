"""One noisy release, what is accounted of it, and tests of the code that makes it.

    (Σ_i clip_C(v_i) + N(0, σ²C² I)) / K

- noise: two releases of the same vectors differ by √2 σC/K times standard normal numbers. Their size is
  tested by χ² on both sides, their shape by Kolmogorov and Smirnov, and that no noise is used again, in
  another coordinate or another draw, by sums and products.
- sensitivity: with the same noise, leaving one vector out moves K times the release by C at most, and
  putting another one in its place by 2C, also where vectors are huge, zero, not finite, or equal.
- denominator: vectors that no clipping touches add up to K times the release, however many they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedlab.errors import UsageError

Floats = NDArray[np.float64]

Test = tuple[str, float, float, str]
"""Name, statistic, the chance of one so extreme if all is right, and words."""

DRAWS = (8, 400)
"""Pairs of releases that are compared: at least, at most."""

TOLERANCE = 1e-3
"""Relative error that float32 sums are granted."""

LOST = 2.0**-22
"""Share of the noise's standard deviation that float32 may lose of each number that the noise is added to."""


@dataclass(frozen=True)
class Claim:
    """What code that adds noise says of itself; σ stands in the ledger.

    Attributes:
        clip: C, the norm that each contribution is clipped to.
        factor: the noise's standard deviation over σC.
        unit: what is clipped: each "record" of a step, or the "update" of a round.
    """

    clip: float
    factor: float = 1.0
    unit: Literal["record", "update"] = "record"


@dataclass(frozen=True)
class Release:
    """What is accounted for, and the code that makes it.

    Attributes:
        make: (vectors (n, d), draw) -> (d,) what is released; the same number of a draw, the same noise.
        dimension: d; noise_multiplier: σ; clip: C; denominator: K.
        most: vectors that it can take at most.
        guarded: whether vectors with numbers that are not finite are turned away before they come so far.
        name: of what makes it, in front of the checks' own names.
    """

    make: Callable[[Floats, int], Floats]
    dimension: int
    noise_multiplier: float
    clip: float
    denominator: float
    most: int = 64
    guarded: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if not (self.clip > 0.0 and self.denominator > 0.0 and self.noise_multiplier >= 0.0):
            raise UsageError(
                f"noise multiplier {self.noise_multiplier}, clip {self.clip}, denominator"
                f" {self.denominator}; expected one >= 0 and two > 0"
            )

    @property
    def lost(self) -> float:
        """Length of what rounding changes in `sums`: it does not cancel where the noise does."""
        return LOST * self.noise_multiplier * math.sqrt(self.dimension)

    def sums(self, vectors: Floats, draw: int) -> Floats:
        """(d,) K times the release, in units of C."""
        released = np.asarray(self.make(vectors, draw), dtype=np.float64)
        with np.errstate(over="ignore"):  # of a mechanism that does not clip
            return released * (self.denominator / self.clip)


def noise(release: Release, generator: np.random.Generator, numbers: int) -> list[Test]:
    """Size, shape and independence of the noise in pairs of releases of the same vectors."""
    d, scale = release.dimension, release.noise_multiplier * np.sqrt(2.0)
    if not release.noise_multiplier:
        return []
    pairs = int(np.clip(numbers // d, *DRAWS))
    counts = _counts(release)
    found = np.stack(
        [
            release.sums(vectors, 2 * pair) - release.sums(vectors, 2 * pair + 1)
            for pair in range(pairs)
            for vectors in [_vectors(generator, counts[pair % len(counts)], d, release.clip, 3.0)]
        ]
    )
    found /= scale
    if not np.isfinite(found).all():
        return [("noise", np.inf, 0.0, "what is released is not finite")]
    square = float(np.square(found).sum())
    size = np.sqrt(square / found.size)
    together = float(np.square(found.sum(axis=1)).sum() / d)
    again = float((found[1:] * found[:-1]).sum() / np.sqrt((pairs - 1) * d))
    some = found.reshape(-1)[:: max(1, found.size // numbers)]
    shape = stats.kstest(some, "norm")
    apart = 2.0 * min(two_sided(stats.chi2(pairs), together), two_sided(stats.norm, again))
    amount = f"{found.size:,} numbers in {pairs} draws"
    return [
        (
            "noise",
            square,
            two_sided(stats.chi2(found.size), square),
            f"standard deviation {size:.4g} times what is accounted ({amount})",
        ),
        ("noise shape", shape.statistic, shape.pvalue, f"distance to a normal distribution ({amount})"),
        ("noise used once", again, min(1.0, apart), f"coordinates and draws are independent ({amount})"),
    ]


def sensitivity(release: Release, generator: np.random.Generator) -> Test:
    """How far one vector moves the sum, over what it may, at the worst of many."""
    worst, most = 0.0, min(release.most, 8)
    for vectors in _adversarial(generator, most, release):
        whole = release.sums(vectors, 0)
        for row in {0, len(vectors) - 1}:
            gone = release.sums(np.delete(vectors, row, axis=0), 0)
            other = vectors.copy()
            other[row] = np.where(np.isfinite(vectors[row]), -vectors[row], 0.0)
            swapped = release.sums(other, 0)
            with np.errstate(over="ignore", invalid="ignore"):
                moved = max(np.linalg.norm(whole - gone), np.linalg.norm(whole - swapped) / 2.0)
            worst = max(worst, float(moved)) if np.isfinite(moved) else np.inf
    words = f"one record moves the sum by {worst:.4g} times its bound at most"
    most_of_all = float(np.hypot(1.0, release.lost)) + TOLERANCE
    return "sensitivity", worst, float(worst <= most_of_all), words


def denominator(release: Release, generator: np.random.Generator) -> Test:
    """How far the sum of small vectors is from what their release comes to."""
    worst = 0.0
    for count in _counts(release):
        vectors = _vectors(generator, count, release.dimension, release.clip, 0.5)
        vectors = np.abs(vectors)  # they add up instead of cancelling
        total = vectors.sum(axis=0) / release.clip
        moved = release.sums(vectors, 0) - release.sums(np.zeros_like(vectors), 0)
        off, length = float(np.linalg.norm(moved - total)), float(np.linalg.norm(total))
        error = max(0.0, off - release.lost) / length
        worst = max(worst, error) if np.isfinite(error) else np.inf
    words = f"sums over {release.denominator:g}, whatever the batch's size, are off by {worst:.2g} at most"
    return "denominator", worst, float(worst <= TOLERANCE), words


def _counts(release: Release) -> list[int]:
    """Numbers of vectors: one, and some below and above the denominator."""
    sizes = {1, 2, round(release.denominator), 2 * round(release.denominator) + 1}
    return sorted({min(max(size, 1), release.most) for size in sizes})


def _vectors(generator: np.random.Generator, count: int, d: int, clip: float, longest: float) -> Floats:
    """(count, d) of random directions, and lengths up to `longest` C."""
    vectors = generator.standard_normal((count, d))
    lengths = clip * longest * generator.uniform(0.1, 1.0, count)
    scaled: Floats = vectors * (lengths / np.linalg.norm(vectors, axis=1))[:, None]
    return scaled


def _adversarial(generator: np.random.Generator, count: int, release: Release) -> Iterator[Floats]:
    """Sets of vectors that reach as far as they can: (n, d) each, n <= count."""
    d, clip = release.dimension, release.clip
    plain = _vectors(generator, count, d, clip, 3.0)
    first = np.zeros(d)
    first[0] = clip
    spread = np.full(d, clip / np.sqrt(d))
    yield plain
    for one in (first, spread):
        for length in (1.0, 1.5, 1e3, 1e6, 1e15):
            yield np.tile(length * one, (count, 1))  # all alike, and all in line
            alone = np.zeros((count, d))
            alone[0] = length * one
            yield alone
    mixed = plain.copy()
    mixed[0] *= 1e6
    yield mixed
    for odd in () if release.guarded else (np.nan, np.inf):
        broken = plain.copy()
        broken[0, 0] = odd
        yield broken


def two_sided(distribution: Any, value: float) -> float:
    """The chance of a value that is as extreme, on either side."""
    return float(min(1.0, 2.0 * min(distribution.cdf(value), distribution.sf(value))))
