"""The exact ε of Gaussian noise on a vector, by a formula instead of an accountant.

Balle, Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018,
https://arxiv.org/abs/1805.06530, Theorem 8. With μ = sensitivity / standard deviation,

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ).

Several Gaussian mechanisms, each chosen in view of what those before it released, are together one with
μ² = Σ μ_i² (Dong, Roth, Su, "Gaussian Differential Privacy", JRSS B 2022, https://arxiv.org/abs/1905.02383).
That holds where nobody is sampled: with sampling, use `fedlab.privacy.accountants`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import log_ndtr

from fedlab.errors import UsageError


def gaussian_delta(mu: float, epsilon: float) -> float:
    """δ of the mechanism at ε >= 0."""
    if mu <= 0.0:
        return 0.0
    first = math.exp(log_ndtr(mu / 2 - epsilon / mu))
    return max(0.0, first - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The smallest ε at `delta`, to 1e-9 above it; inf for an infinite μ.

    Args:
        mu: sensitivity over the noise's standard deviation, at least 0.

    Raises:
        UsageError: a δ outside (0, 1), or a μ below 0.
    """
    if not 0.0 < delta < 1.0:
        raise UsageError(f"delta must lie in (0, 1), got {delta}; take less than 1 / users, e.g. 1e-5")
    if not mu >= 0.0:
        raise UsageError(f"mu = {mu}; expected a sensitivity over a standard deviation, at least 0")
    if not math.isfinite(mu):
        return math.inf
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    return least(lambda epsilon: gaussian_delta(mu, epsilon) <= delta, 1e-9)


def least(enough: Callable[[float], bool], precision: float) -> float:
    """The smallest number above 0 that is enough, to `precision` above it; what exceeds it must be too."""
    low, high = 0.0, 1.0
    while not enough(high):
        low, high = high, 2.0 * high
    while high - low > precision:
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
