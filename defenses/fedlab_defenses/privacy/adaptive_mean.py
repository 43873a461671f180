"""Noise at the server on updates that are clipped to a quantile of their norms, which the server learns.

Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021,
https://arxiv.org/abs/1905.03871, Algorithm 1:

    Δ = (Σ_u min(1, C / ‖Δ_u‖) Δ_u + N(0, z_Δ² C² I)) / K,
    b = 1/2 + (Σ_u (1[‖Δ_u‖ <= C] − 1/2) + N(0, σ_b²)) / K,        C <- C exp(−η (b − γ)).

One user moves the count of halves by 1/2, so that sums with z_Δ and counts with σ_b cost together what a sum
with z alone does, for z_Δ = (z^-2 − (2σ_b)^-2)^(-1/2) (Theorem 1). z is what the ledger has. The C that a
round clips to is the C that its noise is scaled by; the next one is made of what has noise already, and costs
nothing. K is the fixed number by which sums are divided, for counts as well: where fewer come, b lies nearer
to 1/2 than the share of those who came, and with γ = 1/2 nothing moves because of them.

Deviation: who sends an update of nothing but zeros counts neither way, so that zeros in a user's place (the
adjacency without sampling) move the count by 1/2 as well. C stays within 10^6 times of where it began.

flwr 1.41's DifferentialPrivacyServerSideAdaptiveClipping counts the updates that were clipped where the rule
needs those that were not, so that C moves away from the quantile, and scales the noise by the next round's C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedlab.privacy.mechanism import Claim
from fedlab.privacy.noise import standard_normal
from fedlab.strategies import Updates
from fedlab.strategies.aggregators import AggregatorState
from fedlab_defenses.privacy.central import clipped, of_users

REACH = 1e6
"""C stays between its first value over this, and times this."""


class AdaptiveMean:
    """The noisy mean of updates that are clipped to a learned norm, which is its state.

    Args:
        clip: C in the first round.
        sigma: z, what sum and count together are accounted for.
        cohort: K.
        quantile: γ, the share of updates that are not to be clipped.
        rate: η.
        count_noise: σ_b; more than z / 2.
        secure: whether noise comes from the operating system.
    """

    name, counts_alike = "user-dp", True

    def __init__(
        self,
        clip: float,
        sigma: float,
        cohort: int,
        *,
        quantile: float,
        rate: float,
        count_noise: float,
        secure: bool = False,
    ) -> None:
        self.clip, self.sigma, self.cohort, self.secure = clip, sigma, cohort, secure
        self.quantile, self.rate, self.count_noise = quantile, rate, count_noise
        self.multiplier = (sigma**-2 - (2.0 * count_noise) ** -2) ** -0.5 if sigma else 0.0

    @property
    def claim(self) -> Claim:
        """Of one new model, as the first."""
        return Claim(self.clip, self.multiplier / self.sigma if self.sigma else 1.0)

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        clip = float(state.get("clip", self.clip))
        users = of_users(updates)
        total, norms = clipped(users, clip), users.norm(dim=1)
        noise = standard_normal(total.shape, updates.generator, secure=self.secure, dtype=total.dtype)
        halves = torch.where(norms == 0.0, 0.0, torch.where(norms <= clip, 0.5, -0.5)).sum()
        count_noise = standard_normal((), updates.generator, secure=self.secure, dtype=total.dtype)
        share = 0.5 + float(halves + self.count_noise * count_noise if self.sigma else halves) / self.cohort
        moved = math.log(clip / self.clip) - self.rate * (share - self.quantile)
        limit = math.log(REACH)
        after = self.clip * math.exp(min(max(moved, -limit), limit))
        return (total + self.multiplier * clip * noise) / self.cohort, {"clip": after}
