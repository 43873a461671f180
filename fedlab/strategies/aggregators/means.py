"""Means: every client counts, by its records or alike.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, https://arxiv.org/abs/1602.05629, Algorithm 1: Σ (n_i / n) Δ_i over the
clients of the round.
"""

from __future__ import annotations

from torch import Tensor

from fedlab.strategies.aggregators.contract import coordinatewise


@coordinatewise
def mean(deltas: Tensor, weights: Tensor) -> Tensor:
    """Every client counts the same."""
    return deltas.mean(0)


@coordinatewise
def weighted_mean(deltas: Tensor, weights: Tensor) -> Tensor:
    """Clients count by their records (McMahan et al. 2017, Algorithm 1)."""
    return (weights / weights.sum()) @ deltas
