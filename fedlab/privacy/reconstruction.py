"""How well a training record can be guessed at best: reconstruction robustness.

Balle, Cherubin, Hayes, "Reconstructing Training Data with Informed Adversaries", IEEE S&P 2022,
https://arxiv.org/abs/2201.04845; Hayes, Mahloujifar, Balle, "Bounding Training Data Reconstruction in
DP-SGD", NeurIPS 2023, https://arxiv.org/abs/2302.07225. Somebody who sees no update guesses a record well
enough with probability κ at most; what "well enough" means is up to the reader. With everything that the
training released, and all other records beside, it is γ at most:

- (ε, δ)-differential privacy: γ <= κ e^ε + δ.
- One Gaussian mechanism, μ = sensitivity / standard deviation: γ = 1 − Φ(Φ⁻¹(1 − κ) − μ). Without a record
  instead of with another in its place, the sensitivity is C; of replacing one it is 2C.
- DP-SGD: γ = sup {P(E) : Q(E) <= κ} over events E, where P is T draws of (1 − q) N(0, σ²) + q N(1, σ²) and Q
  is T draws of N(0, σ²): with the record, and without. By Neyman and Pearson E = {P/Q > τ}.

The last is estimated by Monte Carlo. Deviation: the paper draws from Q and takes a quantile of the ratios;
here the draws come from P, each of which counts P/Q times less under Q, so that a small κ needs no more of
them. One half of the draws chooses τ. The other half gives the upper bound, by

    γ <= τ κ + E_P[max(0, 1 − τ Q/P)],    with equality at the right τ,

which holds whatever τ is, and an empirical Bernstein bound on the mean (Maurer, Pontil, COLT 2009,
https://arxiv.org/abs/0907.3740, Theorem 4). It is about adding or removing one record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fedlab.errors import UsageError

BLOCK = 1 << 20
"""Draws that are held at a time."""

LARGEST = 700.0
"""Logarithm of a ratio above which nothing is in doubt, and numbers overflow."""


class Success(NamedTuple):
    """γ as estimated, and what it does not exceed at the confidence that was asked for."""

    gamma: float
    upper: float


def rero_epsilon(kappa: float, epsilon: float, delta: float) -> float:
    """γ that (ε, δ)-differential privacy allows, whatever the mechanism is.

    Raises:
        UsageError: κ outside (0, 1), ε below 0 or δ outside [0, 1].
    """
    _check(kappa)
    if not (epsilon >= 0.0 and 0.0 <= delta <= 1.0):
        raise UsageError(f"epsilon = {epsilon}, delta = {delta}; expected epsilon >= 0 and delta in [0, 1]")
    bound = math.log(kappa) + epsilon
    return min(1.0, math.exp(bound) + delta) if bound < 0.0 else 1.0


def rero_gaussian(kappa: float, mu: float) -> float:
    """γ of Gaussian noise, exactly; `mu` is the sensitivity over the standard deviation, all steps together.

    >>> round(rero_gaussian(0.01, 1.0), 4)
    0.0924

    Raises:
        UsageError: κ outside (0, 1) or μ below 0.
    """
    _check(kappa)
    if not mu >= 0.0:
        raise UsageError(f"mu = {mu}; expected a sensitivity over a standard deviation, at least 0")
    return float(ndtr(mu + ndtri(kappa)))


def rero_bound(
    steps: Mapping[tuple[float, float], int],
    kappa: float,
    *,
    samples: int = 100_000,
    generator: np.random.Generator,
    confidence: float = 0.95,
) -> Success:
    """γ of Poisson-subsampled Gaussian steps, and an upper bound on it.

    Args:
        steps: number of steps by (noise multiplier σ, sample rate q), as `Ledger.steps` has them.
        samples: draws of the whole schedule; a mean of half of them is the bound.

    Raises:
        UsageError: κ or the confidence outside (0, 1), q outside [0, 1], σ < 0, or fewer than 4 samples.
    """
    return rero_bounds(steps, [kappa], samples=samples, generator=generator, confidence=confidence)[0]


def rero_bounds(
    steps: Mapping[tuple[float, float], int],
    kappas: Sequence[float],
    *,
    samples: int = 100_000,
    generator: np.random.Generator,
    confidence: float = 0.95,
) -> list[Success]:
    """`rero_bound` at each κ, from the same draws; each bound holds at the confidence by itself."""
    for kappa in kappas:
        _check(kappa)
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence = {confidence}; expected a number between 0 and 1, e.g. 0.95")
    if samples < 4:
        raise UsageError(f"samples = {samples}; expected at least 4, better 100,000")
    for sigma, rate in steps:
        if not (0.0 <= sigma < math.inf and 0.0 <= rate <= 1.0):
            raise UsageError(f"steps with sigma = {sigma}, q = {rate}; expected sigma >= 0 and q in [0, 1]")
    live = {(sigma, q): count for (sigma, q), count in steps.items() if count > 0 and q > 0.0}
    if any(sigma == 0.0 for sigma, _ in live):
        return [Success(1.0, 1.0) for _ in kappas]  # without noise nothing is hidden
    losses = privacy_losses(live, samples, generator)
    half = samples // 2
    return [_bounded(losses[:half], losses[half:], kappa, 1.0 - confidence) for kappa in kappas]


def privacy_losses(
    steps: Mapping[tuple[float, float], int], samples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """(samples,) draws of ln P/Q under P, the training with the record; needs σ > 0.

    Steps without sampling are drawn as the one Gaussian that they are together.
    """
    total = np.zeros(samples)
    squared = sum(count / sigma**2 for (sigma, q), count in steps.items() if q == 1.0)
    if squared:
        total += squared / 2.0 + math.sqrt(squared) * generator.standard_normal(samples)
    for (sigma, q), count in sorted(steps.items()):
        if q == 1.0:
            continue
        at_once = max(1, BLOCK // samples)
        for start in range(0, count, at_once):
            shape = (min(at_once, count - start), samples)
            seen = sigma * generator.standard_normal(shape) + (generator.random(shape) < q)
            total += log_ratio(seen, sigma, q).sum(axis=0)
    return total


def log_ratio(seen: NDArray[np.float64], sigma: float, q: float) -> NDArray[np.float64]:
    """ln of the density of (1 − q) N(0, σ²) + q N(1, σ²) over that of N(0, σ²), at what was seen."""
    if q == 1.0:
        return (seen - 0.5) / sigma**2
    exponent = np.minimum((seen - 0.5) / sigma**2, LARGEST)
    ratio: NDArray[np.float64] = np.log((1.0 - q) + q * np.exp(exponent))
    return ratio


def _bounded(first: NDArray[np.float64], second: NDArray[np.float64], kappa: float, risk: float) -> Success:
    """τ from the first draws, γ and its bound from the second."""
    ordered = np.sort(first)[::-1]
    outside = np.cumsum(np.exp(-ordered)) / len(ordered)  # Q(P/Q >= r), by weights
    at = int(np.searchsorted(outside, kappa))
    tau = math.exp(min(ordered[at], LARGEST)) if at < len(ordered) else 0.0
    over = np.maximum(0.0, -np.expm1(math.log(tau) - second)) if tau else np.ones(len(second))
    gamma, count = tau * kappa + float(over.mean()), len(over)
    logs = math.log(2.0 / risk)
    slack = math.sqrt(2.0 * float(over.var(ddof=1)) * logs / count) + 7.0 * logs / (3.0 * (count - 1))
    return Success(min(1.0, max(gamma, kappa)), min(1.0, max(gamma + slack, kappa)))


def _check(kappa: float) -> None:
    if not 0.0 < kappa < 1.0:
        raise UsageError(f"kappa = {kappa}; expected the chance of a blind guess, between 0 and 1, e.g. 0.01")
