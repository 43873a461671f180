"""What happens to updates before they are aggregated.

Mixing of nearest neighbours and its limits: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, "Fixing
by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity", AISTATS 2023,
https://arxiv.org/abs/2302.01772. Bucketing: Karimireddy, He, Jaggi, "Byzantine-Robust Learning on
Heterogeneous Datasets via Bucketing", ICLR 2022, https://arxiv.org/abs/2006.09365. Adaptive clipping (ARC):
Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan, "Adaptive Gradient Clipping for Robust Federated
Learning", ICLR 2025, https://arxiv.org/abs/2405.14432.

Each is called with `Updates` and returns `Updates`, and `needed(minimum)` says how many it needs so that
`minimum` are left. All treat clients alike; the records of a bucket are its clients' together, otherwise
each client keeps its own, for an aggregator that counts them.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from fedlab.strategies.aggregators.contract import Updates
from fedlab.strategies.aggregators.geometry import clipping, norms, squared_distances
from fedlab.strategies.aggregators.ranges import Attackers, Length, Positive, above_zero, whole


class NearestNeighborMixing:
    """x_i <- the mean of the n − f updates that are nearest to it, itself among them; n >= 2f + 1.

    Allouah et al., "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity", AISTATS 2023,
    https://arxiv.org/abs/2302.01772.

    Args:
        f: attackers to withstand.
    """

    def __init__(self, *, f: Attackers = 1) -> None:
        self.f = whole("f", f, 0)

    def needed(self, minimum: int) -> int:
        return max(minimum, 2 * self.f + 1)

    def __call__(self, updates: Updates) -> Updates:
        n = len(updates.deltas)
        distances = squared_distances(updates.deltas).fill_diagonal_(-1.0)  # itself before its equals
        nearest = distances.argsort(dim=1, stable=True)[:, : n - self.f]
        share = torch.zeros_like(distances).scatter_(1, nearest, 1.0 / (n - self.f))
        return replace(updates, deltas=share @ updates.deltas)


class Bucketing:
    """The means of random groups of `size` updates, the last of which may be smaller.

    Karimireddy et al., "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", ICLR 2022,
    https://arxiv.org/abs/2006.09365.

    Args:
        size: updates in a bucket; 1 changes nothing but their order.
    """

    coordinatewise = True

    def __init__(self, *, size: Positive = 2) -> None:
        self.size = whole("size", size, 1)

    def needed(self, minimum: int) -> int:
        return self.size * (minimum - 1) + 1

    def __call__(self, updates: Updates) -> Updates:
        order = torch.randperm(len(updates.deltas), generator=updates.generator)
        buckets = sorted(sorted(bucket.tolist()) for bucket in torch.split(order, self.size))
        share = updates.deltas.new_zeros(len(buckets), len(order))
        for row, bucket in zip(share, buckets, strict=True):
            row[bucket] = 1.0 / len(bucket)
        return replace(
            updates,
            deltas=share @ updates.deltas,
            weights=(share > 0).double() @ updates.weights,
            clients=tuple(updates.clients[bucket[0]] for bucket in buckets),
            metrics=(),
            steps=None if updates.steps is None else share @ updates.steps,
        )


class Clipping:
    """x_i <- x_i min(1, C / ‖x_i‖).

    Allouah et al., "Adaptive Gradient Clipping for Robust Federated Learning", ICLR 2025,
    https://arxiv.org/abs/2405.14432.

    Args:
        max_norm: C, the Euclidean length that an update may have.
    """

    def __init__(self, *, max_norm: Length) -> None:
        self.max_norm = above_zero("max_norm", max_norm, infinite=True)

    def needed(self, minimum: int) -> int:
        return minimum

    def __call__(self, updates: Updates) -> Updates:
        factors = clipping(norms(updates.deltas), self.max_norm)
        return replace(updates, deltas=updates.deltas * factors[:, None])


class AdaptiveClipping:
    """The k = ⌊2 (f/n) (n − f)⌋ longest updates become as long as the longest of the others; n >= 2f + 1.

    Allouah et al., "Adaptive Gradient Clipping for Robust Federated Learning", ICLR 2025,
    https://arxiv.org/abs/2405.14432.

    Args:
        f: attackers to withstand; 0 changes nothing.
    """

    def __init__(self, *, f: Attackers = 1) -> None:
        self.f = whole("f", f, 0)

    def needed(self, minimum: int) -> int:
        return max(minimum, 2 * self.f + 1)

    def __call__(self, updates: Updates) -> Updates:
        n, lengths = len(updates.deltas), norms(updates.deltas)
        longest = 2 * self.f * (n - self.f) // n
        bound = lengths.sort().values[n - longest - 1]
        return replace(updates, deltas=updates.deltas * clipping(lengths, bound)[:, None])
