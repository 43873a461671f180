"""How far a record's gradient may reach: as a whole, layer by layer, or to a quantile that is learned.

`Flat`: the whole gradient to C (Abadi et al., CCS 2016, https://arxiv.org/abs/1607.00133), as Opacus'
DPOptimizer does.

`PerLayer`: each of the network's L parameter tensors to C / √L (McMahan et al., ICLR 2018,
https://arxiv.org/abs/1710.06963, §B), as Opacus' DPPerLayerOptimizer with those norms: together no more than
C, and the noise is that of C.

`Adaptive`: to a quantile γ of the norms, learned from how many were not clipped (Andrew, Thakkar, McMahan,
Ramaswamy, "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021,
https://arxiv.org/abs/1905.03871, Algorithm 1), for records where the paper has users:

    b = 1/2 + (Σ_i (1[‖g_i‖ <= C] − 1/2) + N(0, σ_b²)) / B,      C <- C exp(−η (b − γ)).

A count of halves moves by 1/2 with one record, so that counts with σ_b and gradients with σ_Δ cost together
what σ alone does, for σ^-2 = σ_Δ^-2 + (2σ_b)^-2 (Theorem 1). C is what a client remembers, from step to
step and from round to round.

Deviation from Opacus 1.6, whose AdaClipDPOptimizer counts ones, which move by 1 and not by 1/2, and
divides by how many records the batch happens to have, which its ε does not cover and an empty batch makes
infinite: here the halves are counted, and B is the expected number. Where batches have the expected number of
records, both give the same thresholds. Clip factors are min(1, C / ‖g‖), where Opacus has ‖g‖ + 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fedlab.clients.rules import Batch
from fedlab.tasks import State

LIMIT, COUNT = "dp-clip", "dp-count"
"""Names of the learned threshold among a client's memories, and of the count's noise among its draws."""


def _factor(bound: Tensor | float, norms: Tensor) -> Tensor:
    """min(1, C / norm): 1 of a zero gradient, 0 of one whose norm is no number."""
    factor: Tensor = (bound / norms).nan_to_num(0.0).clamp(max=1.0)
    return factor


class Flat:
    """The whole gradient of a record to the norm C."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __str__(self) -> str:
        return f"to {self.limit:g}"

    def multiplier(self, sigma: float) -> float:
        """σ_Δ: the noise of gradients over C, where a step as a whole costs what σ does."""
        return sigma

    def memory(self) -> State:
        """What a client remembers before its first round."""
        return {}

    def draws(self, normal: Callable[[tuple[int, ...]], Tensor]) -> State:
        """Random tensors of one step, from standard normal draws."""
        return {}

    def bound(self, memory: State) -> Tensor | float:
        """C in this step."""
        return self.limit

    def factors(self, squares: State, bound: Tensor | float) -> State:
        """(B,) what each record's gradient is multiplied by, from its squared norms (B,), by tensor."""
        norms = torch.stack(list(squares.values())).sum(0).sqrt()
        return dict.fromkeys(squares, _factor(bound, norms))

    def moved(self, memory: State, factors: State, batch: Batch) -> State:
        """What the client remembers after a step."""
        return memory


class PerLayer(Flat):
    """Each of L parameter tensors to C / √L."""

    def __str__(self) -> str:
        return f"layer by layer to {self.limit:g} / √L"

    def factors(self, squares: State, bound: Tensor | float) -> State:
        own = bound / math.sqrt(len(squares))
        return {name: _factor(own, square.sqrt()) for name, square in squares.items()}


class Adaptive(Flat):
    """The whole gradient to the quantile γ of the norms, beginning with C.

    Args:
        quantile: γ, the share of gradients that are not to be clipped.
        rate: η, how fast C follows.
        count_noise: σ_b, the standard deviation of the noise on the count.
        limits: what C stays between.
    """

    def __init__(
        self, limit: float, quantile: float, rate: float, count_noise: float, limits: tuple[float, float]
    ) -> None:
        super().__init__(limit)
        self.quantile, self.rate, self.count_noise, self.limits = quantile, rate, count_noise, limits

    def __str__(self) -> str:
        return (
            f"to the {self.quantile:g} quantile of norms, learned from {self.limit:g} on by counts with"
            f" noise of {self.count_noise:g}"
        )

    def multiplier(self, sigma: float) -> float:
        return (sigma**-2 - (2.0 * self.count_noise) ** -2) ** -0.5 if sigma else 0.0

    def memory(self) -> State:
        return {LIMIT: torch.tensor(self.limit)}

    def draws(self, normal: Callable[[tuple[int, ...]], Tensor]) -> State:
        return {COUNT: normal(())}

    def bound(self, memory: State) -> Tensor | float:
        return memory[LIMIT]

    def moved(self, memory: State, factors: State, batch: Batch) -> State:
        kept = (next(iter(factors.values())) >= 1.0).to(batch.rows.dtype)
        count = ((kept - 0.5) * batch.rows).sum() + self.count_noise * batch.draws[COUNT]
        share = 0.5 + count / batch.size
        limit = memory[LIMIT] * torch.exp(-self.rate * (share - self.quantile))
        return {LIMIT: limit.clamp(*self.limits)}
