"""Poisson sampling, what is accounted of it, and tests of the code that does it.

Sizes of batches are Bin(n, q) (χ² over bins), records are drawn with probability q in all (exact binomial),
each as often as any other (χ²), and independently from step to step: two successive batches share
Bin(n, q²) of them (exact). Batches of a fixed size have no spread; those of an epoch share nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedlab.errors import UsageError
from fedlab.privacy.releases import Test, two_sided

STEPS = 400
"""Batches that are looked at; more where records are drawn seldom, up to ten times as many."""


@dataclass(frozen=True)
class Sampling:
    """Poisson sampling as it is accounted for, and the code that does it.

    Attributes:
        draw: number -> the batches of one round, as positions among the records.
        records: n; rate: q.
        name: as in `Release`.
    """

    draw: Callable[[int], Sequence[NDArray[np.int64]]]
    records: int
    rate: float
    name: str = ""

    def __post_init__(self) -> None:
        if not (self.records >= 1 and 0.0 < self.rate <= 1.0):
            raise UsageError(
                f"{self.records} records at rate {self.rate}; expected at least 1, and a rate in (0, 1]"
            )


def batches(sampling: Sampling) -> list[Test]:
    """Sizes of batches, how often records are drawn, and how many two successive batches share."""
    n, q = sampling.records, sampling.rate
    steps = int(np.clip(20.0 / (q * max(1.0 - q, 0.1)), STEPS, 10 * STEPS))
    drawn = list(_first(sampling, steps))
    sizes = np.array([len(np.unique(batch)) for batch in drawn])
    spread = float(sizes.var() / (n * q * (1.0 - q))) if q < 1.0 else 0.0
    about = (
        f"mean {sizes.mean():.4g} of {n * q:.4g}, variance {spread:.3g} times a binomial's, {steps} batches"
    )
    if q == 1.0:
        everything = bool((sizes == n).all())
        return [
            ("batch sizes", float(sizes.mean()), float(everything), f"all records in every step: {about}")
        ]
    times = np.bincount(np.concatenate(drawn).astype(np.int64), minlength=n)
    each = float(np.square(times - steps * q).sum() / (steps * q * (1.0 - q)))
    pairs = steps // 2
    shared = sum(len(np.intersect1d(drawn[2 * i], drawn[2 * i + 1])) for i in range(pairs))
    statistic, p = _goodness(sizes, n, q)
    return [
        ("batch sizes", statistic, p, about),
        (
            "sampling rate",
            float(sizes.sum()),
            stats.binomtest(int(sizes.sum()), steps * n, q).pvalue,
            f"{sizes.sum() / (steps * n):.4g} of {q:.4g}",
        ),
        (
            "records alike",
            each,
            of_squares(each, n, steps, q) if len(times) == n else 0.0,
            f"spread of how often records are drawn: {each / n:.3g} times what independent draws give",
        ),
        (
            "batches independent",
            float(shared),
            stats.binomtest(int(shared), pairs * n, q * q).pvalue,
            f"successive batches share {shared} records; {pairs * n * q * q:.4g} expected",
        ),
    ]


def of_squares(each: float, n: int, steps: int, q: float) -> float:
    """p of the sum of n squared standard scores of Bin(steps, q): by a scaled χ² of the same mean, n, and the
    same variance, which is more than 2n where records are drawn seldom."""
    scale = 1.0 + (1.0 / (q * (1.0 - q)) - 6.0) / (2.0 * steps)
    return two_sided(stats.chi2(n / scale), each / scale)


def _goodness(sizes: NDArray[np.int64], n: int, q: float) -> tuple[float, float]:
    """χ² of sizes over bins in each of which at least 5 are expected, and its p."""
    expected = len(sizes) * stats.binom.pmf(np.arange(n + 1), n, q)
    edges, filled = [0], 0.0
    for size, share in enumerate(expected):
        filled += share
        if filled >= 5.0 and expected[size + 1 :].sum() >= 5.0:
            edges.append(size + 1)
            filled = 0.0
    if len(edges) == 1:
        return 0.0, 1.0
    wanted = np.add.reduceat(expected, edges)
    found = np.histogram(sizes, bins=[*edges, n + 1])[0]
    statistic = float((np.square(found - wanted) / wanted).sum())
    return statistic, float(stats.chi2(len(edges) - 1).sf(statistic))


def _first(sampling: Sampling, steps: int) -> Iterator[NDArray[np.int64]]:
    """So many batches, of as many rounds as it takes."""
    number = left = 0
    while left < steps:
        for batch in sampling.draw(number)[: steps - left]:
            yield np.asarray(batch)
            left += 1
        number += 1
