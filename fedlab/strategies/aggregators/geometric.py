"""Centers of updates in all coordinates at once.

Geometric median: Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning" (RFA), IEEE TSP
2022, https://arxiv.org/abs/1912.13445, Algorithm 2, the smoothed Weiszfeld algorithm. Deviations: it goes on
until it converges (the paper stops after about three iterations; set `iterations` for that); it starts
at the mean; clients count alike (the paper's α_i may be their records, which an attacker claims as it likes).

Centered clipping: Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML
2021, https://arxiv.org/abs/2012.10333, Algorithm 2. The center of a round is the aggregate of the last one,
0 in the first. Clients count alike. The paper's workers send momenta: without those, in a rule like
`fedavg-m` or by local steps, small attacks that persist add up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedlab.strategies.aggregators.contract import AggregatorState, Updates
from fedlab.strategies.aggregators.ranges import Length, Positive, above_zero, whole


class GeometricMedian:
    """argmin_v Σ ‖v − x_i‖ by v <- Σ w_i x_i / Σ w_i with w_i = 1 / max(ν, ‖v − x_i‖).

    Pillutla et al., "Robust Aggregation for Federated Learning", IEEE TSP 2022,
    https://arxiv.org/abs/1912.13445.

    Args:
        nu: ν, below which distances count as ν, so that none is 0.
        iterations: steps at most; 3 is the paper's.
        tolerance: ends when v moves by less than this share of the median distance (or of ν).
    """

    def __init__(self, *, nu: Length = 1e-6, iterations: Positive = 1000, tolerance: Length = 1e-9) -> None:
        self.nu = above_zero("nu", nu)
        self.iterations = whole("iterations", iterations, 1)
        self.tolerance = above_zero("tolerance", tolerance)

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        return self._shares(updates.deltas @ updates.deltas.T) @ updates.deltas, state

    def _shares(self, gram: Tensor) -> Tensor:
        """(n,) shares c that sum to 1, with v = Σ c_i x_i: each step then costs n² and not n d.

        ‖x_i − v‖² = G_ii − 2 (G c)_i + cᵀ G c is exact to about 1e-16 of the squared lengths of the x_i
        near v, also where an attacker's x is astronomic, since its share is then as small. That is enough:
        whatever the error, v stays among the x_i.
        """
        share = torch.full_like(gram[0], 1.0 / len(gram))
        for _ in range(self.iterations):
            towards = gram @ share
            squares = gram.diagonal() - 2.0 * towards + share @ towards
            distances = squares.clamp(min=0.0).sqrt().clamp(min=self.nu)
            weights = 1.0 / distances
            moved = weights / weights.sum() - share
            share = share + moved
            if float(moved @ gram @ moved) <= float(self.tolerance * distances.median()) ** 2:
                break
        return share


class CenteredClipping:
    """v <- v + (1/n) Σ (x_i − v) min(1, τ / ‖x_i − v‖), from the last round's v.

    Karimireddy et al., "Learning from History for Byzantine Robust Optimization", ICML 2021,
    https://arxiv.org/abs/2012.10333.

    Args:
        tau: τ, how far from the center an update may pull; about the distance between honest updates.
        iterations: how often the center moves in a round.
    """

    def __init__(self, *, tau: Length, iterations: Positive = 1) -> None:
        self.tau = above_zero("tau", tau, infinite=True)
        self.iterations = whole("iterations", iterations, 1)

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        center = state.get("center", torch.zeros_like(updates.deltas[0]))
        for _ in range(self.iterations):
            step = torch.zeros_like(center)
            for delta in updates.deltas:  # one at a time: no copy of the matrix
                pull = delta - center
                step.add_(pull, alpha=min(1.0, self.tau / max(float(pull.norm()), 1e-300)))
            center = center + step / len(updates.deltas)
        return center, {"center": center}
