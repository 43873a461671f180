"""Robust statistics of each coordinate by itself.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates", ICML 2018, https://arxiv.org/abs/1803.01498, definitions 1 and 2. Every client counts alike, however
many records it holds.

Deviation: the paper trims a share β of the values at each end, as flwr's FedTrimmedAvg does, which cuts
⌊β n⌋ of them; here their number f is given, so that it does not change with the number of replies.
"""

from __future__ import annotations

from torch import Tensor

from fedlab.strategies.aggregators.contract import AggregatorState, Updates, coordinatewise
from fedlab.strategies.aggregators.ranges import Attackers, whole


@coordinatewise
def median(deltas: Tensor, weights: Tensor) -> Tensor:
    """Coordinate-wise median; the mean of the middle two for an even number of clients.

    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018,
    https://arxiv.org/abs/1803.01498.
    """
    ordered = deltas.sort(0).values
    n = len(deltas)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2.0


class TrimmedMean:
    """Per coordinate, the mean without the f smallest and the f largest values; n >= 2f + 1.

    Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018,
    https://arxiv.org/abs/1803.01498.

    Args:
        f: attackers to withstand; 0 is the mean.
    """

    coordinatewise = True

    def __init__(self, *, f: Attackers = 1) -> None:
        self.f = whole("f", f, 0)
        self.minimum = 2 * self.f + 1

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        ordered = updates.deltas.sort(0).values
        return ordered[self.f : len(ordered) - self.f].mean(0), state
