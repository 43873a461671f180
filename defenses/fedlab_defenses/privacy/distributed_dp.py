"""Distributed differential privacy: every client adds a share of the noise, and only sums are opened.

Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning", NeurIPS 2021,
https://arxiv.org/abs/2110.04995, Algorithm 1. Client u clips its update to C, rounds it at random to
multiples of a step γ, and adds integer noise; the server learns the sum:

    k_u = round(min(1, C / ‖Δ_u‖) Δ_u / γ),     Σ_u (k_u + Sk(μ)),     μ = (z C / γ)² / survivors.

Sums of Skellam numbers are Skellam: of m ≥ `survivors` clients the noise has variance m μ, a noise multiplier
of z sqrt(m / survivors). The ledger counts the m that answered; with fewer nothing is opened.

- Sensitivity. Rounding may lengthen a vector. One that would come out longer than 1.005 C / γ is rounded
  towards zero instead, which shortens it; so Δ₂ = 1.005 C / γ always, whatever the number of parameters, and
  Δ₁ ≤ Δ₂² (integers). (The paper draws again until its bound is met, which grows with the parameters.)
- Against whom. The server sees sums, and is curious; so may be everybody who sees models. Users are protected
  against both as long as the noise of `survivors` clients is unknown to them.
- Alone, this defense is the view of a server that sees sums (`fedlab_defenses.secure_sum.view`). In a stack,
  `secagg-plus` behind it masks the very integers; nothing else may stand behind it, for what changes single
  noisy updates is no function of their sum.

Deviations: no rotation by a Hadamard matrix, which the paper needs for a small modulus; the step is given,
and the modulus follows. Values travel as float32 parameters and are rounded back to integers; a step so fine
that they cannot be told apart is an error.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.errors import UsageError
from fedlab.privacy import Assumption, Event, Guarantee, Ledger
from fedlab.privacy.gaussian import least
from fedlab.privacy.noise import FROM_SEEDS
from fedlab.strategies import Aggregator
from fedlab.strategies.rounds import OwnRounds
from fedlab_defenses.privacy import skellam
from fedlab_defenses.privacy.central import ZERO_OUT, bound, mean_only, target, without_batch_norm
from fedlab_defenses.privacy.lattice import SLACK, OnLattice, SkellamRule

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

FINENESS = 4096
"""Steps in the clipping norm, unless one is given: fine enough for rounding a million parameters."""


class DistributedDP(Defense):
    """Clients clip, round and add Skellam noise to their updates, and the server sees the sum: user-level DP.

    Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning", NeurIPS
    2021, https://arxiv.org/abs/2110.04995.

    Args:
        clip: C, the L2 norm that a user's update of one round is clipped to.
        noise_multiplier: z, the noise on the sum of `survivors` updates over C. Give this or `epsilon`.
        epsilon: target ε at `delta`; z is then the smallest that keeps a user within it who takes part as
            often as one can, with no more than `survivors` answering.
        delta: δ of the guarantee; should lie well below 1 / (number of users).
        survivors: clients whose noise a sum has at least; with fewer there is no sum and no model. Two
            thirds of the cohort unless given.
        step: γ, what an integer stands for; unless given the largest power of two up to clip / 4096.
    """

    paper = (
        "Agarwal, Kairouz, Liu, The Skellam Mechanism for Differentially Private Federated Learning,"
        " NeurIPS 2021, https://arxiv.org/abs/2110.04995"
    )
    example: ClassVar[dict[str, Any]] = {"noise_multiplier": 1.0}
    sees = "sums"
    spends = "client"

    def __init__(
        self,
        *,
        clip: Annotated[float, Field(gt=0)] = 1.0,
        noise_multiplier: Annotated[float, Field(ge=0)] | None = None,
        epsilon: Annotated[float, Field(gt=0)] | None = None,
        delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5,
        survivors: Annotated[int, Field(ge=1)] | None = None,
        step: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        target("distributed-dp", noise_multiplier, epsilon, delta)
        if survivors is not None and survivors < 1:
            raise UsageError(f"distributed-dp survivors = {survivors}; expected at least 1")
        self.clip = bound("distributed-dp clip", clip)
        fine = 2.0 ** math.floor(math.log2(self.clip / FINENESS))
        self.step = fine if step is None else bound("distributed-dp step", step)
        if self.step > self.clip:
            raise UsageError(
                f"distributed-dp step = {self.step}; expected a small part of clip = {self.clip}"
            )
        self.noise_multiplier, self.epsilon, self.delta = noise_multiplier, epsilon, delta
        self.survivors = survivors
        self._lattice: OnLattice | None = None
        self._secure = False

    @property
    def sensitivity(self) -> float:
        """Δ₂ in integers: the L2 norm of what one user adds to a sum, noise apart."""
        return SLACK * self.clip / self.step

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        return functools.partial(without_batch_norm, "distributed-dp", factory)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return SkellamRule(rule, self.clip, self.step, self.variance(federation), federation.secure)

    def aggregator(self, inner: Aggregator, federation: Federation) -> Aggregator:
        mean_only("distributed-dp", inner)
        largest = self.step * (self.sensitivity + skellam.reach(self.variance(federation)))
        self._lattice = OnLattice(self.step, self.needed(federation), largest)
        self._secure = federation.secure
        return self._lattice

    def strategy(self, inner: Strategy) -> Strategy:
        if isinstance(inner, OwnRounds):
            raise UsageError(
                f"distributed-dp adds up what clients of one round send, but {type(inner).__name__} has no"
                ' such rounds; set strategy.name = "fedavg", or take the defense user-dp'
            )
        return inner

    def needed(self, federation: Federation) -> int:
        """Clients whose noise a sum has at least."""
        cohort = federation.cohort
        needed = math.ceil(2 * cohort / 3) if self.survivors is None else self.survivors
        if needed > cohort:
            raise UsageError(
                f"distributed-dp survivors = {needed}, but a sum has {cohort} updates; lower it, or raise"
                " strategy.cohort"
            )
        return needed

    def multiplier(self, federation: Federation) -> float:
        """z, as given or as the target needs it."""
        if self.noise_multiplier is not None or self.epsilon is None:
            return float(self.noise_multiplier or 0.0)
        return _calibrated(self.epsilon, self.delta, federation.most, self.clip / self.step, self.sensitivity)

    def variance(self, federation: Federation) -> float:
        """μ: of one client's noise, in integers."""
        return (self.multiplier(federation) * self.clip / self.step) ** 2 / self.needed(federation)

    def charge(self, clients: Sequence[int], round: int, federation: Federation) -> list[Event]:
        """By the noise of all that answered, over what one user may add to the sum, rounding included."""
        users = sorted(set(clients))
        needed = self.needed(federation)  # of fewer nothing is opened
        sigma = self.multiplier(federation) / SLACK * math.sqrt(max(len(users), needed) / needed)
        return [Event(user, round, sigma, 1.0, 1) for user in users]

    def spent(self, ledger: Ledger) -> dict[int, float]:
        """ε of each user, over all rounds."""
        square = self.sensitivity**2
        return {
            user: skellam.epsilon(
                {(sigma * self.sensitivity) ** 2: count for (sigma, _), count in steps.items()},
                square,
                self.sensitivity,
                self.delta,
            )
            for user, steps in ledger.steps().items()
        }

    def guarantee(self, ledger: Ledger) -> Guarantee | None:
        """The largest ε over users, each over the rounds in which it took part."""
        if not ledger.events:
            return None
        spent = self.spent(ledger)
        sigma, worst = min(event.noise_multiplier for event in ledger.events), max(spent.values())
        masked = self._lattice is not None and self._lattice.masked
        opened = masked or not self._secure
        gone = len(ledger.turned_away)
        assumptions = (
            Assumption("Skellam noise of every client that answers is in each sum", sigma > 0.0),
            Assumption(
                f"a user adds integers of L2 norm {self.sensitivity:g} at most (clip {self.clip:g}, step"
                f" {self.step:g}, {SLACK - 1:.1%} for rounding) to a sum, noise apart",
                True,
            ),
            Assumption(
                "the server sees sums only, and none of fewer clients than were planned for"
                + (
                    " (secagg-plus masks them)"
                    if masked
                    else " (a view: nothing is masked in this simulation)"
                ),
                opened,
            ),
            Assumption(
                "of the noise in a sum nobody knows a share: clients keep their own to themselves", True
            ),
            Assumption("nothing else computed from a user's records is sent (no loss, no buffers)", True),
            Assumption("how many records each client holds is public", True),
            Assumption(
                "no update was turned away for what it held"
                + (f" (those of {gone} clients were)" if gone else ""),
                not gone,
            ),
            Assumption("no amplification by sampling is claimed", True),
        )
        why = None
        if sigma <= 0.0 or not math.isfinite(worst):
            why = "without noise, clipping and summing prove nothing"
        elif not opened:
            why = "updates are sent unmasked, each with a share of the noise; stack it with secagg-plus"
        elif gone:
            why = "updates were turned away for what they held"
        return Guarantee(
            mechanism=(
                f"distributed DP: updates clipped to {self.clip:g}, rounded to multiples of {self.step:g},"
                f" and Skellam noise of multiplier {sigma:g} on their sum"
            ),
            epsilon=worst if why is None else None,
            delta=self.delta,
            unit="one user, with all records and all rounds",
            adjacency=ZERO_OUT,
            accountant="RDP of the Skellam mechanism (Agarwal et al. 2021)",
            noise="integers from the operating system" if self._secure else FROM_SEEDS,
            assumptions=assumptions,
            per_client=spent,
            participations=ledger.participations(),
            reason=why,
        )


@functools.lru_cache(maxsize=64)
def _calibrated(epsilon: float, delta: float, rounds: int, fineness: float, sensitivity: float) -> float:
    """The smallest z, to 1e-4 above it.

    Raises:
        UsageError: none reaches ε.
    """

    def within(z: float) -> bool:
        releases = {(z * fineness) ** 2: rounds}
        return skellam.epsilon(releases, sensitivity**2, sensitivity, delta) <= epsilon

    if not within(1e4):
        raise UsageError(
            f"distributed-dp epsilon = {epsilon} at delta {delta} cannot be reached in {rounds} rounds;"
            " expected a larger one, or fewer rounds"
        )
    return least(within, 1e-4)
