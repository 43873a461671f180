"""A lower bound on ε from what an auditor can guess: from one training, and from many.

**One run.** Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023,
https://arxiv.org/abs/2305.08846, Theorem 5.2 and Appendix D. Of m canaries each is put into the training by
the toss of a fair coin. The auditor looks at what was released, guesses the coins of r canaries (a number
that it fixed before) and is silent about the others; v of its guesses are right. If the training is
(ε, δ)-private, then, with X ~ Bin(r, e^ε / (1 + e^ε)),

    P[V >= v] <= P[X >= v] + 2 m δ α,      α = max_{1<=i<=v} P[v − i <= X < v] / i,

so that every ε at which the right side is below 1 − confidence is rejected. The bound has no need of
independence between canaries, and holds for whatever the auditor does. Even r right guesses of r prove no
more than ln(p / (1 − p)), p = (1 − confidence)^(1/r): the `ceiling`.

**Many runs.** Where the same question is asked in independent trials, half of them with the record,
Clopper–Pearson bounds on the rates of true and false positives give

    ε >= max{ ln((TPR_low − δ) / FPR_high), ln((TNR_low − δ) / FNR_high) }

(Jagielski, Ullman, Oprea, "Auditing Differentially Private Machine Learning", NeurIPS 2020,
https://arxiv.org/abs/2006.07709). The best threshold of many would be chosen by what was found: the first
half of the trials chooses the threshold and the side, the second half is counted.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, binom

from fedlab.errors import UsageError
from fedlab.privacy.gaussian import least

Floats = NDArray[np.float64]

PRECISION = 1e-6
"""Of the bounds on ε; they are rounded down by it."""


@dataclass(frozen=True)
class OneRun:
    """What one audited training showed.

    Attributes:
        canaries: m; guesses: r, fixed beforehand; right: v.
        epsilon: what is claimed of the training that was audited; None if nothing is.
        epsilon_hat: ε is at least that, with the confidence.
        ceiling: the most that so many guesses could have shown.
    """

    canaries: int
    guesses: int
    right: int
    delta: float
    confidence: float
    epsilon: float | None
    epsilon_hat: float
    ceiling: float

    @property
    def alarm(self) -> bool:
        """Whether the claim is refuted."""
        return self.epsilon is not None and self.epsilon_hat > self.epsilon

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"alarm": self.alarm}


def one_run(
    scores: ArrayLike,
    included: ArrayLike,
    guesses: int,
    *,
    delta: float,
    epsilon: float | None = None,
    confidence: float = 0.95,
) -> OneRun:
    """Guess by scores: the highest are in, the lowest are out; half of the guesses are of either kind.

    Args:
        scores: (m,) of each canary, larger where it seems to have been in.
        included: (m,) its coin.
        guesses: r, fixed before anybody looked at scores; an odd one is spent on "in".
        epsilon: what is claimed at `delta`.

    Raises:
        UsageError: no or too many guesses, scores that are no numbers, δ or confidence out of range.
    """
    values, coins = np.asarray(scores, dtype=np.float64), np.asarray(included, dtype=bool)
    if values.ndim != 1 or values.shape != coins.shape or not np.isfinite(values).all():
        raise UsageError(
            f"scores of shape {values.shape}, coins of shape {coins.shape}; expected one finite score and one"
            " coin for each canary"
        )
    if not 1 <= guesses <= len(values):
        raise UsageError(f"guesses = {guesses} for {len(values)} canaries; expected 1 to {len(values)}")
    order = np.argsort(values, kind="stable")
    lowest, highest = order[: guesses // 2], order[len(order) - (guesses - guesses // 2) :]
    right = int(coins[highest].sum() + (~coins[lowest]).sum())
    bound = epsilon_lower_bound(len(values), guesses, right, delta, confidence)
    most = epsilon_lower_bound(len(values), guesses, guesses, delta, confidence)
    return OneRun(len(values), guesses, right, delta, confidence, epsilon, bound, most)


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The chance, at most, of so many right guesses or more if the training is (ε, δ)-private.

    Raises:
        UsageError: not 0 <= right <= guesses <= canaries, ε below 0 or δ outside [0, 1].
    """
    if not 0 <= right <= guesses <= canaries:
        raise UsageError(
            f"{right} right of {guesses} guesses about {canaries} canaries; expected 0 <= right <= guesses <="
            " canaries"
        )
    if not (epsilon >= 0.0 and 0.0 <= delta <= 1.0):
        raise UsageError(f"epsilon = {epsilon}, delta = {delta}; expected epsilon >= 0 and delta in [0, 1]")
    accuracy = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, accuracy))
    if right == 0 or delta == 0.0:
        return min(1.0, tail)
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, accuracy))
    alpha = float((below / np.arange(1, right + 1)).max())
    return min(1.0, tail + 2.0 * canaries * delta * alpha)


def epsilon_lower_bound(
    canaries: int, guesses: int, right: int, delta: float, confidence: float = 0.95
) -> float:
    """The ε that so many right guesses prove; 0 if none.

    Raises:
        UsageError: as `p_value`, or a confidence outside (0, 1).
    """
    _check_confidence(confidence)
    risk = 1.0 - confidence
    if p_value(canaries, guesses, right, 0.0, delta) >= risk:
        return 0.0
    found = least(lambda epsilon: p_value(canaries, guesses, right, epsilon, delta) >= risk, PRECISION)
    return max(0.0, found - PRECISION)


def clopper_pearson(hits: ArrayLike, trials: int, confidence: float) -> tuple[Floats, Floats]:
    """Bounds on probabilities, each of which alone fails with probability (1 − confidence) / 2 at most."""
    risk, found = (1.0 - confidence) / 2.0, np.asarray(hits)
    low = np.where(found > 0, beta.ppf(risk, np.maximum(found, 1), trials - found + 1), 0.0)
    high = np.where(found < trials, beta.isf(risk, found + 1, np.maximum(trials - found, 1)), 1.0)
    return low, high


def epsilon_from_rates(
    true_positives: int,
    positives: int,
    false_positives: int,
    negatives: int,
    *,
    delta: float,
    confidence: float = 0.95,
) -> float:
    """ln((TPR_low − δ) / FPR_high) of one test, fixed beforehand; 0 if that proves nothing.

    Raises:
        UsageError: counts that cannot be, δ or confidence out of range.
    """
    _check_confidence(confidence)
    if not (0 <= true_positives <= positives and 0 <= false_positives <= negatives and 0.0 <= delta <= 1.0):
        raise UsageError(
            f"{true_positives} of {positives} true and {false_positives} of {negatives} false positives at"
            f" delta = {delta}; expected no more hits than trials, and delta in [0, 1]"
        )
    counts = np.array([true_positives]), positives, np.array([false_positives]), negatives
    return float(_proved(*counts, delta, confidence)[0])


def epsilon_from_trials(
    inside: ArrayLike, outside: ArrayLike, *, delta: float, confidence: float = 0.95
) -> float:
    """ε that the scores of independent trials prove, with the record inside and outside of the training.

    Scores are larger where the record seems to have been inside. The first half of either chooses the
    threshold and the side, the second is counted.

    Raises:
        UsageError: fewer than two trials of either kind, or scores that are no numbers.
    """
    with_it, without = (np.asarray(one, dtype=np.float64) for one in (inside, outside))
    for scores in (with_it, without):
        if scores.ndim != 1 or len(scores) < 2 or not np.isfinite(scores).all():
            raise UsageError(
                f"scores of shape {scores.shape}; expected the finite scores of at least two trials"
            )
    half, other = len(with_it) // 2, len(without) // 2
    first, second = (with_it[:half], without[:other]), (with_it[half:], without[other:])
    thresholds = np.unique(np.concatenate(first))
    found = [_proved(*_counts(*first, thresholds, side), delta, confidence) for side in (False, True)]
    side = bool(found[1].max() > found[0].max())
    chosen = thresholds[[int(found[side].argmax())]]
    return float(_proved(*_counts(*second, chosen, side), delta, confidence)[0])


def _proved(
    hits: NDArray[np.int64],
    trials: int,
    mistakes: NDArray[np.int64],
    others: int,
    delta: float,
    confidence: float,
) -> Floats:
    """ε by the number of hits among so many trials, and of mistakes among so many others."""
    low, _ = clopper_pearson(hits, trials, confidence)
    _, high = clopper_pearson(mistakes, others, confidence)
    ratio: Floats = np.log(np.maximum((low - delta) / high, 1.0))
    return ratio


def _counts(
    inside: Floats, outside: Floats, thresholds: Floats, mirrored: bool
) -> tuple[NDArray[np.int64], int, NDArray[np.int64], int]:
    """Of the tests "score >= threshold: inside", or of "score < threshold: outside"."""
    below = [np.searchsorted(np.sort(one), thresholds, side="left") for one in (inside, outside)]
    if mirrored:
        return below[1], len(outside), below[0], len(inside)
    return len(inside) - below[0], len(inside), len(outside) - below[1], len(outside)


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence = {confidence}; expected a number between 0 and 1, e.g. 0.95")
