"""Means: every client counts, by its records or alike.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, https://arxiv.org/abs/1602.05629, Algorithm 1: Σ (n_i / n) Δ_i over the
clients of the round. Norm bounding: Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated
Learning?", 2019, https://arxiv.org/abs/1911.07963, section 4.

Deviation: the paper's norm bounding may add a little noise; here a defense does that, if any.
"""

from __future__ import annotations

from torch import Tensor

from fedlab.strategies.aggregators.contract import AggregatorState, Updates, coordinatewise
from fedlab.strategies.aggregators.geometry import clipping, norms
from fedlab.strategies.aggregators.ranges import Length, above_zero


@coordinatewise
def mean(deltas: Tensor, weights: Tensor) -> Tensor:
    """Σ Δ_i / n: every client counts the same, however many records it holds."""
    return deltas.mean(0)


@coordinatewise
def weighted_mean(deltas: Tensor, weights: Tensor) -> Tensor:
    """Σ (n_i / n) Δ_i: clients count by their records.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
    https://arxiv.org/abs/1602.05629.
    """
    return (weights / weights.sum()) @ deltas


class NormBounding:
    """Σ (n_i / n) Δ_i min(1, M / ‖Δ_i‖): no update is longer than M; clients count by their records.

    Sun et al., "Can You Really Backdoor Federated Learning?", 2019, https://arxiv.org/abs/1911.07963.

    Args:
        max_norm: M, the Euclidean length that an update may have.
    """

    def __init__(self, *, max_norm: Length) -> None:
        self.max_norm = above_zero("max_norm", max_norm, infinite=True)

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        share = updates.weights / updates.weights.sum()
        return (share * clipping(norms(updates.deltas), self.max_norm)) @ updates.deltas, state
