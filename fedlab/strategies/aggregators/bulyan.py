"""Bulyan: Krum, again and again, then a trimmed mean.

El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018,
https://arxiv.org/abs/1802.07927, section 4. (1) Krum picks an update and takes it away, until θ = n − 2f are
picked; scores are worked out anew among those that remain. (2) Each coordinate is the mean of the
β = θ − 2f picked values that are nearest to their median. n >= 4f + 3. Every client counts alike, however
many records it holds.

As written, Krum has r − f − 2 neighbours among r remaining updates, which is 0 in the last choice for
f = 1; at least one counts here. Of two values equally far from the median the smaller is nearer. flwr 1.41
picks the θ best of one ranking instead of choosing anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedlab.strategies.aggregators.contract import AggregatorState, Updates
from fedlab.strategies.aggregators.coordinates import median
from fedlab.strategies.aggregators.geometry import squared_distances
from fedlab.strategies.aggregators.krum import ranked
from fedlab.strategies.aggregators.ranges import Attackers, whole
from fedlab.strategies.deltas import BLOCK


class Bulyan:
    """Per coordinate, the mean of the n − 4f values nearest the median of n − 2f Krum choices; n >= 4f + 3.

    El Mhamdi et al., "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018,
    https://arxiv.org/abs/1802.07927.

    Args:
        f: attackers to withstand; 0 is the mean.
    """

    def __init__(self, *, f: Attackers = 1) -> None:
        self.f = whole("f", f, 0)
        self.minimum = 4 * self.f + 3

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        picked = sorted(self.picked(squared_distances(updates.deltas)))
        blocks = torch.split(updates.deltas, BLOCK, dim=1)  # so that the sorted copies stay small
        return torch.cat([self._central(block[picked]) for block in blocks]), state

    def picked(self, distances: Tensor) -> list[int]:
        """The row numbers of the n − 2f choices, in their order; `distances` (n, n) are squared."""
        left, chosen = list(range(len(distances))), []
        while len(left) > 2 * self.f:
            best = int(ranked(distances[left][:, left], self.f)[0])
            chosen.append(left.pop(best))
        return chosen

    def _central(self, values: Tensor) -> Tensor:
        ordered = values.sort(0).values
        middle = median(ordered, ordered)
        nearest = (ordered - middle).abs_().argsort(dim=0, stable=True)[: len(values) - 2 * self.f]
        return ordered.gather(0, nearest).mean(0)
