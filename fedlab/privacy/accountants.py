"""ε of composed, Poisson-subsampled Gaussian steps, by Opacus' accountants.

PRV: Gopi, Lee, Wutschitz: Numerical Composition of Differential Privacy (NeurIPS 2021,
https://arxiv.org/abs/2106.02848). RDP: Mironov et al. (https://arxiv.org/abs/1908.10530).
Adjacency is add-or-remove one record, the unit is one record of one client.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedlab.errors import UsageError

PRV_REACH = 50.0
"""Above this ε, PRV needs gigabytes or overflows, and a reader learns nothing from a tighter number."""

Steps = Mapping[tuple[float, float], int]
"""Number of steps by (noise multiplier, sample rate)."""

History = tuple[tuple[float, float, int], ...]
"""(noise multiplier, sample rate, steps) of one user or client, in ascending order."""


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise UsageError(f"delta must lie in (0, 1), got {delta}; take less than 1 / records, e.g. 1e-5")


@lru_cache(maxsize=4096)
def _prv(history: History, delta: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta=delta))


@lru_cache(maxsize=4096)
def _rdp(history: History, delta: float, orders: tuple[float, ...] | None) -> float:
    """As Opacus' RDPAccountant, which calculates what a step costs anew for each history."""
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import get_privacy_spent

    alphas = tuple(RDPAccountant.DEFAULT_ALPHAS) if orders is None else orders
    total = sum(count * _rdp_of_a_step(sigma, rate, alphas) for sigma, rate, count in history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "optimal order is the largest alpha": a hint, no error
        return float(get_privacy_spent(orders=list(alphas), rdp=total, delta=delta)[0])


@lru_cache(maxsize=1024)
def _rdp_of_a_step(sigma: float, rate: float, alphas: tuple[float, ...]) -> NDArray[np.float64]:
    """(orders,) the Rényi divergence of one step, by order."""
    from opacus.accountants.analysis.rdp import compute_rdp

    return np.asarray(compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=list(alphas)))


def _account(steps: Steps, delta: float, account: Callable[[History, float], float]) -> float:
    _check_delta(delta)
    live = [(sigma, q, count) for (sigma, q), count in sorted(steps.items()) if count > 0 and q > 0.0]
    if not live:
        return 0.0
    if any(sigma <= 0.0 for sigma, _, _ in live):
        return math.inf  # without noise there is no guarantee
    return max(0.0, account(tuple(live), delta))


def rdp_epsilon(steps: Steps, delta: float, orders: Sequence[float] | None = None) -> float:
    """ε at `delta` by Rényi accounting: looser than PRV, and always a number when there is noise.

    Args:
        orders: those to take the best of; Opacus' own unless given.
    """
    chosen = None if orders is None else tuple(orders)
    return _account(steps, delta, lambda history, at: _rdp(history, at, chosen))


def prv_epsilon(steps: Steps, delta: float) -> float:
    """ε at `delta` by numerical composition of privacy loss distributions (upper estimate)."""
    return _account(steps, delta, _prv)


@dataclass(frozen=True)
class Spent:
    """An ε, and the accountant that computed it."""

    epsilon: float
    accountant: str


def epsilon_of(steps: Steps, delta: float) -> Spent:
    """PRV's ε; Rényi's where PRV's grids do not reach (large ε, tiny noise, minute δ)."""
    bound = rdp_epsilon(steps, delta)
    if bound <= PRV_REACH:
        try:
            tight = prv_epsilon(steps, delta)
        except (ValueError, MemoryError, OverflowError):
            tight = math.inf
        if tight <= bound:
            return Spent(_rounded_up(tight), "PRV")
    return Spent(_rounded_up(bound), "RDP")


def _rounded_up(epsilon: float) -> float:
    """To the ninth decimal: what lies beyond it differs from process to process."""
    return math.ceil(epsilon * 1e9) / 1e9 if math.isfinite(epsilon) else epsilon


def noise_multiplier_for(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The smallest σ (to 1e-3 relative) whose `steps` steps at `sample_rate` stay within ε.

    Raises:
        UsageError: ε <= 0, or no σ up to 10^4 reaches it.
    """
    if not epsilon > 0.0:
        raise UsageError(f"target epsilon must be > 0, got {epsilon}")
    low, high = 0.05, 1.0
    while epsilon_of({(high, sample_rate): steps}, delta).epsilon > epsilon:
        low, high = high, high * 2.0
        if high > 1e4:
            raise UsageError(
                f"epsilon {epsilon} at delta {delta} cannot be reached in {steps} steps at sample rate"
                f" {sample_rate:g}; allow a larger epsilon, fewer rounds or smaller batches"
            )
    while high - low > 1e-3 * high:
        middle = (low + high) / 2.0
        if epsilon_of({(middle, sample_rate): steps}, delta).epsilon > epsilon:
            low = middle
        else:
            high = middle
    return high
