"""Skellam noise: integers that stay Skellam when they are added up, and what they prove.

Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning", NeurIPS 2021,
https://arxiv.org/abs/2110.04995. K ~ Sk(μ) is the difference of two Poisson numbers of mean μ/2: variance μ,
P(K = k) = e^-μ I_|k|(μ), and Sk(μ) + Sk(ν) ~ Sk(μ + ν). Added to an integer vector of which one user changes
no more than Δ₁ in L1 and Δ₂ in L2 norm, it is Rényi differentially private of every integer order α > 1
(Corollary 3.6):

    ε(α) ≤ α Δ₂² / 2μ + min( ((2α − 1) Δ₂² + 6 Δ₁) / 4μ²,  3 Δ₁ / 2μ ).

Rényi bounds of rounds add up; to (ε, δ) they convert as in Canonne, Kamath, Steinke, "The Discrete Gaussian
for Differential Privacy", NeurIPS 2020, https://arxiv.org/abs/2004.00010, Proposition 12 in v4:

    ε = min_α ε(α) + log(1 − 1/α) − log(δ α) / (α − 1).
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ive
from torch import Tensor

from fedlab.errors import UsageError

ORDERS = (*range(2, 129), *range(132, 513, 4), 1024, 2048, 4096)
LARGEST = 1e12
"""Variance up to which the distribution is tabulated."""
REACH = 10.0
"""Standard deviations (and 80 more integers) beyond which no noise is drawn: the chance is below 1e-22."""


def rdp(order: int, variance: float, l1: float, l2: float) -> float:
    """ε(α) of one release; sensitivities and variance in integers."""
    if variance <= 0.0:
        return math.inf
    second = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    return order * l2**2 / (2 * variance) + min(second, 3 * l1 / (2 * variance))


def epsilon(releases: Mapping[float, int], l1: float, l2: float, delta: float) -> float:
    """ε at `delta` of all releases together.

    Args:
        releases: how many there are, by the noise's variance.
    """
    best = math.inf
    for order in ORDERS:
        spent = sum(count * rdp(order, variance, l1, l2) for variance, count in releases.items())
        converted = spent + math.log1p(-1.0 / order) - math.log(delta * order) / (order - 1)
        best = min(best, converted)
    return max(0.0, best)


def reach(variance: float) -> int:
    """The largest integer that `skellam` draws."""
    return math.ceil(REACH * math.sqrt(variance)) + 80


def skellam(
    shape: tuple[int, ...], variance: float, generator: torch.Generator | None, *, secure: bool = False
) -> Tensor:
    """Independent draws from Sk(variance), integers in float64, by the inverse of the distribution.

    Args:
        generator: what to draw from; nothing is taken from it when `secure`.
        secure: draw from the operating system instead.

    Raises:
        UsageError: a variance that is negative or too large.
    """
    if not 0.0 <= variance <= LARGEST:
        raise UsageError(f"Skellam variance {variance:g}; expected 0 to {LARGEST:g}: take a larger step")
    bits = random_bits(math.prod(shape), generator, secure=secure)
    above = _beyond(variance)
    chance = ((bits >> 1).astype(np.float64) + 0.5) * 2.0**-62
    size = len(above) - np.searchsorted(above, chance, side="right")
    return torch.from_numpy(np.where(bits & 1, size, -size).astype(np.float64)).reshape(shape)


def random_bits(count: int, generator: torch.Generator | None, *, secure: bool) -> NDArray[np.int64]:
    """(count,) integers of 63 random bits."""
    if secure:
        return np.frombuffer(os.urandom(8 * count), dtype=np.int64) & np.int64(2**63 - 1)
    drawn: NDArray[np.int64] = torch.empty(count, dtype=torch.int64).random_(generator=generator).numpy()
    return drawn


@functools.lru_cache(maxsize=8)
def _beyond(variance: float) -> NDArray[np.float64]:
    """P(|K| > m) for m from the largest down to 0: ascending. Summed from the far end, where it is small."""
    chances = ive(np.arange(reach(variance) + 1), variance)
    chances[1:] *= 2.0
    chances /= chances[::-1].cumsum()[-1]
    return np.concatenate([[0.0], chances[:0:-1].cumsum()])
