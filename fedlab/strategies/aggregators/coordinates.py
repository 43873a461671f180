"""Robust statistics of each coordinate by itself.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates", ICML 2018, https://arxiv.org/abs/1803.01498, definitions 1 and 2.
"""

from __future__ import annotations

from torch import Tensor

from fedlab.strategies.aggregators.contract import coordinatewise


@coordinatewise
def median(deltas: Tensor, weights: Tensor) -> Tensor:
    """Coordinate-wise median; the mean of the middle two for an even number of clients.

    Yin et al., ICML 2018, https://arxiv.org/abs/1803.01498.
    """
    ordered = deltas.sort(0).values
    n = len(deltas)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2.0
