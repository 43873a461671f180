"""How well scores tell members from non-members, and what a sample of this size cannot say.

The figure that counts is the share of members found at a low rate of false alarms (N. Carlini et al.,
"Membership Inference Attacks From First Principles", IEEE S&P 2022, https://arxiv.org/abs/2112.03570): an
attack that is sure of a few records harms those people, and an average over all records hides it. The area
under the curve stands beside it, and accuracy nowhere.

With M non-members a false-positive rate below 1/M cannot be observed: such a figure is refused, with the
number of records that it takes. What is given comes with an exact binomial interval (Clopper and Pearson
1934) at its threshold, with that of the false-positive rate at the same threshold, and with the smallest
figure that could have been told from guessing. Records are counted as independent, though those of one client
share a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import gammaln
from scipy.stats import norm

from fedlab.audit.scoring import binomial_interval
from fedlab.errors import UsageError

FALSE_POSITIVE_RATES = (0.01, 0.001)
CONFIDENCE = 0.95

Floats = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Power:
    """The share of members that an attack names at one rate of false alarms.

    Attributes:
        at: the false-positive rate asked for.
        rate: true-positive rate in [0, 1] at the lowest threshold with at most `at` false positives; None
            where the sample cannot support one.
        ci95: of `rate`, at that threshold.
        found, false_alarms: members and non-members above the threshold.
        false_alarm_ci95: of the false-positive rate at that threshold.
        chance: the smallest rate that guessing reaches in at most 5 % of such samples; None if there is none.
        reason: why there is no rate.
    """

    at: float
    rate: float | None = None
    ci95: Interval | None = None
    found: int = 0
    false_alarms: int = 0
    false_alarm_ci95: Interval | None = None
    chance: float | None = None
    reason: str | None = None

    @property
    def told(self) -> bool:
        """Whether the rate is beyond what guessing reaches."""
        return self.rate is not None and self.chance is not None and self.rate >= self.chance


@dataclass(frozen=True)
class Detection:
    """Everything that is said of one attack's scores.

    Attributes:
        members, non_members: how many records of each kind.
        powers: one for each of the false-positive rates asked for.
        auc: probability that a member outscores a non-member, ties counting half; None without both.
        auc_ci95: R. G. Newcombe, Statistics in Medicine 25(4), 2006, method 5.
    """

    members: int
    non_members: int
    powers: tuple[Power, ...]
    auc: float | None
    auc_ci95: Interval | None


def detection(
    scores: ArrayLike, member: ArrayLike, rates: Sequence[float] = FALSE_POSITIVE_RATES
) -> Detection:
    """Judge scores, higher meaning member, against the truth.

    Args:
        scores: (N,) finite numbers; member: (N,) truth values.

    Raises:
        UsageError: shapes that differ, a score that is not finite, or a rate outside (0, 1).
    """
    inside, outside = _split(scores, member)
    both = len(inside) > 0 and len(outside) > 0
    area = _area(inside, outside) if both else None
    return Detection(
        members=len(inside),
        non_members=len(outside),
        powers=tuple(_power(inside, outside, rate) for rate in rates),
        auc=area,
        auc_ci95=None if area is None else auc_interval(area, len(inside), len(outside)),
    )


def standardised(scores: ArrayLike) -> Floats:
    """(N,) scores of one target on a scale common to all: minus the median, over the interquartile range.

    An attacker can do so, for it needs no truth; thresholds are then common to all targets, though each has a
    model of its own. Where half of the scores are equal, the mean absolute deviation is the scale.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        return values
    centred: Floats = values - np.median(values)
    low, high = np.quantile(values, [0.25, 0.75])
    scale = float(high - low) or float(np.abs(centred).mean())
    return centred / scale if scale > 0 else centred


def roc(scores: ArrayLike, member: ArrayLike) -> tuple[Floats, Floats]:
    """(false-positive rates, true-positive rates), ascending from 0 to 1, one point per distinct score.

    Raises:
        UsageError: as `detection`, or records of one kind only.
    """
    inside, outside = _split(scores, member)
    if not len(inside) or not len(outside):
        raise UsageError(f"{len(inside)} members and {len(outside)} non-members; expected some of each")
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    false = len(outside) - np.searchsorted(np.sort(outside), thresholds)
    true = len(inside) - np.searchsorted(np.sort(inside), thresholds)
    return np.concatenate([[0.0], false / len(outside)]), np.concatenate([[0.0], true / len(inside)])


def non_members_needed(rate: float) -> int:
    """The fewest non-members with which a false-positive rate can be observed at all."""
    return math.ceil(1.0 / rate - 1e-9)


def chance_rate(members: int, non_members: int, false_alarms: int) -> float | None:
    """The smallest true-positive rate that scores without knowledge reach in at most 5 % of samples.

    Of randomly ordered records, the members ahead of the false alarm that is one too many follow a negative
    hypergeometric distribution, exactly; the threshold's own uncertainty is in it.
    """
    found, others = np.arange(members + 1), non_members - false_alarms
    ways = _choose(found + false_alarms, found) + _choose(members - found + others - 1, members - found)
    exactly = np.exp(ways - _choose(np.array(members + non_members), np.array(members)))
    unlikely = np.cumsum(exactly[::-1])[::-1] <= 1.0 - CONFIDENCE + 1e-9
    return float(found[unlikely][0]) / members if unlikely.any() else None


def _choose(among: NDArray[np.int64], taken: NDArray[np.int64]) -> Floats:
    """Logarithm of the number of ways."""
    return np.asarray(gammaln(among + 1) - gammaln(taken + 1) - gammaln(among - taken + 1))


def auc_interval(area: float, members: int, non_members: int) -> Interval:
    """95 % interval of an area under the curve, in [0, 1]: the areas whose own deviation reaches `area`.

    Unlike a symmetric interval it has a width at 0 and 1.
    """
    z, half = float(norm.ppf(0.5 + CONFIDENCE / 2)), (members + non_members) / 2 - 1

    def beyond(true: float) -> float:
        spread = 1.0 + half * ((1.0 - true) / (2.0 - true) + true / (1.0 + true))
        variance = true * (1.0 - true) * spread / (members * non_members)
        return (area - true) ** 2 - z * z * variance

    low = 0.0 if area <= 0.0 else float(brentq(beyond, 0.0, area - 1e-12)) if area > 1e-12 else 0.0
    high = 1.0 if area >= 1.0 - 1e-12 else float(brentq(beyond, area + 1e-12, 1.0))
    return low, high


def _power(inside: Floats, outside: Floats, rate: float) -> Power:
    if not 0.0 < rate < 1.0:
        raise UsageError(f"a false-positive rate of {rate}; expected one between 0 and 1")
    needed = non_members_needed(rate)
    if len(outside) < needed:
        return Power(rate, reason=f"needs at least {needed} non-members, had {len(outside)}")
    if not len(inside):
        return Power(rate, reason="needs members, had none")
    allowed = math.floor(rate * len(outside) + 1e-9)
    threshold = np.sort(outside)[::-1][allowed]  # the first false alarm too many: scores must exceed it
    found, false = int((inside > threshold).sum()), int((outside > threshold).sum())
    return Power(
        at=rate,
        rate=found / len(inside),
        ci95=binomial_interval(found, len(inside)),
        found=found,
        false_alarms=false,
        false_alarm_ci95=binomial_interval(false, len(outside)),
        chance=chance_rate(len(inside), len(outside), allowed),
    )


def _area(inside: Floats, outside: Floats) -> float:
    """Mann and Whitney's statistic over the number of pairs."""
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, side="left")
    upto = np.searchsorted(ordered, inside, side="right")
    return float((below + upto).sum()) / (2.0 * len(inside) * len(outside))


def _split(scores: ArrayLike, member: ArrayLike) -> tuple[Floats, Floats]:
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(member, dtype=bool)
    if values.ndim != 1 or values.shape != truth.shape:
        raise UsageError(f"scores {values.shape} and members {truth.shape}; expected the same length of both")
    if not bool(np.isfinite(values).all()):
        raise UsageError("a score is not finite; a membership attack answers with finite numbers")
    return values[truth], values[~truth]
