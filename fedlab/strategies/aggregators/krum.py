"""Krum: updates that have many others near them.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
Descent", NeurIPS 2017, https://arxiv.org/abs/1703.02757, section 4. The score of an update is the sum of
its squared distances to its n − f − 2 nearest others; n >= 2f + 3. Every client counts alike, however many
records it holds. Among equal scores (two updates, each the only neighbour that counts for the other) the
one nearest to all wins, then the lowest client id.

Deviations: the mean of Multi-Krum is over m = n − f updates unless said otherwise (the paper proves its
bound for m < n − 2f − 2 and leaves m open). byzfl 0.0.11 counts n − f − 1 neighbours.
"""

from __future__ import annotations

from torch import Tensor

from fedlab.strategies.aggregators.contract import AggregatorState, Updates
from fedlab.strategies.aggregators.geometry import squared_distances
from fedlab.strategies.aggregators.ranges import Attackers, Positive, whole


def ranked(distances: Tensor, f: int) -> Tensor:
    """(n,) row numbers by their Krum score, the best first; `distances` (n, n) are squared.

    Where fewer than f + 3 are left (in Bulyan's last choices), one neighbour counts.
    """
    n = len(distances)
    ordered = distances.clone().fill_diagonal_(-1.0).sort(1).values[:, 1:]  # without itself
    central = ordered.sum(1).argsort(stable=True)
    return central[ordered[central, : max(1, n - f - 2)].sum(1).argsort(stable=True)]


class Krum:
    """The update whose n − f − 2 nearest others are nearest, Σ ‖x_i − x_j‖² minimal; n >= 2f + 3.

    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017,
    https://arxiv.org/abs/1703.02757.

    Args:
        f: attackers to withstand.
    """

    def __init__(self, *, f: Attackers = 1) -> None:
        self.f = whole("f", f, 0)
        self.minimum = 2 * self.f + 3

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        best = int(ranked(squared_distances(updates.deltas), self.f)[0])
        return updates.deltas[best], state


class MultiKrum:
    """The mean of the m updates with the best Krum scores; n >= 2f + 3.

    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017,
    https://arxiv.org/abs/1703.02757.

    Args:
        f: attackers to withstand; 0 is the mean (unless m is given).
        m: how many updates to average; n − f unless given.
    """

    def __init__(self, *, f: Attackers = 1, m: Positive | None = None) -> None:
        self.f = whole("f", f, 0)
        self.m = None if m is None else whole("m", m, 1)
        self.minimum = max(2 * self.f + 3, self.m or 1)

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        n = len(updates.deltas)
        kept = ranked(squared_distances(updates.deltas), self.f)[: self.m or n - self.f]
        share = updates.deltas.new_zeros(n)
        share[kept] = 1.0 / len(kept)
        return share @ updates.deltas, state
