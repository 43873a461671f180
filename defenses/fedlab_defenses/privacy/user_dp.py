"""User-level differential privacy at the server: noise on every sum of clipped updates.

McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018,
https://arxiv.org/abs/1710.06963, Algorithm 1, with users that count alike and the fixed denominator
("f_f"):

    Δ = (Σ_u min(1, C / ‖Δ_u‖) Δ_u + N(0, σ²C² I)) / K.

K is `strategy.cohort`: the cohort of a synchronous round, the buffer of an asynchronous server. It stays K
when more or fewer come, because a denominator that one user's coming changes would have to be noised as
well.

- Clipping comes after staleness weights, which the server has multiplied the updates by. They are at most
  1, but it would not matter: what is clipped last has length at most C.
- A user who is twice in one buffer is clipped once, as a whole. Clipped twice it could move the sum by
  2C, which costs more than two rounds do.
- Amplification by sampling is claimed where it is proved: a synchronous server, the sampler `poisson`,
  nobody replaced or left out (no over-selection, no quorum, no stragglers, no deadline), and rounds so large
  that one without anybody (drop-outs included), which is skipped and adds no noise, has probability below
  δ / 10^6 over the whole run.
  Everywhere else the rate is 1. An asynchronous server asks whoever is there, and devices that come back
  sooner are asked more often: nothing is drawn that could amplify.
- Adjacency is add-or-remove one user under Poisson sampling. Where a fixed number is asked or a buffer
  fills up, somebody else would have come in the user's place; there it is zero-out (all of a user's
  updates replaced by zeros; Kairouz et al., ICML 2021, https://arxiv.org/abs/2103.00039), and who takes
  part is public.

`clipping = "adaptive"` learns C from round to round; `adaptive_mean.py` has the rule and what it costs.

Deviations: no cap on weights by records (they would say how many there are; all count 1). flwr 1.41's
wrappers divide by the clients that came and average by records: their noise is then too small for C/K.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.clients.config import Federation
from fedlab.clients.rules import LocalRule
from fedlab.errors import UsageError
from fedlab.privacy import (
    Assumption,
    Event,
    Guarantee,
    Ledger,
    epsilon_of,
    history_of,
    noise_multiplier_for,
)
from fedlab.privacy.mechanism import Claim
from fedlab.privacy.noise import standard_normal
from fedlab.strategies import Aggregator, Updates
from fedlab.strategies.aggregators import AggregatorState
from fedlab_defenses.privacy.adaptive_mean import AdaptiveMean
from fedlab_defenses.privacy.central import (
    ZERO_OUT,
    QuietRule,
    bound,
    clipped_sum,
    mean_only,
    proved,
    target,
    weak_delta,
    without_batch_norm,
)

NEGLIGIBLE = 1e-6
"""Share of δ below which the chance of a round without anybody is let pass."""


class UserDP(Defense):
    """Clips each user's update, and adds noise to their sum: (Σ_u clip_C(Δ_u) + N(0, σ²C²)) / K.

    McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018,
    https://arxiv.org/abs/1710.06963.

    Protects users from whoever sees the models, under a server that is trusted; it sees all updates.

    Args:
        clip: C, the L2 norm that a user's update of one round is clipped to; under adaptive clipping, at
            first.
        noise_multiplier: σ, the noise on the sum over C. Give this or `epsilon`.
        epsilon: target ε at `delta`; σ is then the smallest that keeps a user within it who takes part as
            often as one can: in all rounds, or `max_participations` times.
        delta: δ of the guarantee; should lie well below 1 / (number of users).
        clipping: flat (to C), or adaptive (to a quantile of the norms, which the server learns).
        quantile: of adaptive clipping, the share of updates that are to stay as they are.
        clip_rate: of adaptive clipping, how fast the norm follows that quantile.
        count_noise: of adaptive clipping, the noise on the number of updates that stayed as they were; a
            twentieth of the cohort, or σ if that is more, unless given. More than σ / 2.
    """

    paper = (
        "McMahan, Ramage, Talwar, Zhang, Learning Differentially Private Recurrent Language Models,"
        " ICLR 2018, https://arxiv.org/abs/1710.06963"
    )
    example: ClassVar[dict[str, Any]] = {"noise_multiplier": 1.0}
    spends = "server"

    def __init__(
        self,
        *,
        clip: Annotated[float, Field(gt=0)] = 1.0,
        noise_multiplier: Annotated[float, Field(ge=0)] | None = None,
        epsilon: Annotated[float, Field(gt=0)] | None = None,
        delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5,
        clipping: Literal["flat", "adaptive"] = "flat",
        quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        clip_rate: Annotated[float, Field(gt=0)] = 0.2,
        count_noise: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        target("user-dp", noise_multiplier, epsilon, delta)
        self.clip = bound("user-dp clip", clip)
        self.noise_multiplier, self.epsilon, self.delta = noise_multiplier, epsilon, delta
        if clipping not in ("flat", "adaptive"):
            raise UsageError(f"user-dp clipping = {clipping!r}; expected flat or adaptive")
        if not 0.0 < quantile < 1.0:
            raise UsageError(f"user-dp quantile = {quantile}; expected a share between 0 and 1, e.g. 0.5")
        self.clipping, self.quantile = clipping, quantile
        self.clip_rate = bound("user-dp clip_rate", clip_rate)
        self.count_noise = None if count_noise is None else bound("user-dp count_noise", count_noise)

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        return functools.partial(without_batch_norm, "user-dp", factory)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return QuietRule("user-dp", rule)

    def aggregator(self, inner: Aggregator, federation: Federation) -> Aggregator:
        mean_only("user-dp", inner)
        sigma, cohort = self.sigma(federation), federation.cohort
        if self.clipping == "flat":
            return NoisyMean(self.clip, sigma, cohort, secure=federation.secure)
        noise = max(cohort / 20.0, sigma) if self.count_noise is None else self.count_noise
        if sigma >= 2.0 * noise:
            raise UsageError(
                f"user-dp count_noise = {noise:g}; expected more than half of the noise multiplier"
                f" ({sigma:g}), because the counts alone must not spend what sums and counts may spend"
                " together; raise it, or leave it out"
            )
        return AdaptiveMean(
            self.clip,
            sigma,
            cohort,
            quantile=self.quantile,
            rate=self.clip_rate,
            count_noise=noise,
            secure=federation.secure,
        )

    def sigma(self, federation: Federation) -> float:
        """The noise multiplier, as given or as the target needs it."""
        if self.noise_multiplier is not None or self.epsilon is None:
            return float(self.noise_multiplier or 0.0)
        rate = self.rate(federation)
        steps = federation.rounds if rate < 1.0 else federation.most
        return _calibrated(self.epsilon, self.delta, rate, steps)

    def rate(self, federation: Federation) -> float:
        """q that may be claimed: the rate of Poisson sampling, or 1 where a skipped round might tell."""
        others = len(federation.records) - 1
        heard = federation.rate * (1.0 - federation.dropout)
        nobody = others * math.log1p(-heard) if federation.rate < 1.0 else 0.0
        negligible = math.log(NEGLIGIBLE * self.delta / max(federation.rounds, 1))
        return federation.rate if nobody < negligible else 1.0

    def cautions(self, federation: Federation) -> Sequence[str]:
        return weak_delta("user-dp", self.delta, len(federation.records), "users")

    def charge(self, clients: Sequence[int], round: int, federation: Federation) -> list[Event]:
        sigma, rate = self.sigma(federation), self.rate(federation)
        return [Event(client, round, sigma, rate, 1, place="server") for client in sorted(set(clients))]

    def guarantee(self, ledger: Ledger) -> Guarantee | None:
        """The largest ε over users, each over the rounds in which it took part. Under Poisson sampling over
        all rounds: there it is the chance of taking part that counts, and not whether one did."""
        steps = {client: dict(mine) for client, mine in ledger.steps().items()}
        drawn = bool(ledger.events) and all(event.sample_rate < 1.0 for event in ledger.events)
        if drawn:
            made = sum(last - first + 1 for first, last in ledger.attempts().values())
            steps = {client: {next(iter(mine)): made} for client, mine in steps.items()}
        spent = {client: epsilon_of(mine, self.delta) for client, mine in steps.items()}
        names = sorted({one.accountant for one in spent.values()})
        norm = f"{self.clip:g}"
        if self.clipping == "adaptive":
            norm = f"the {self.quantile:g} quantile of norms, learned from {norm} on"
        return proved(
            f"user-level DP at the server: updates clipped to {norm}, noise multiplier"
            f" {min((event.noise_multiplier for event in ledger.events), default=0.0):g}",
            ledger,
            {client: one.epsilon for client, one in spent.items()},
            delta=self.delta,
            accountant=f"{' and '.join(names)} (opacus {version('opacus')})",
            adjacency="add or remove one user" if drawn else ZERO_OUT,
            assumptions=(
                Assumption(
                    "each round is a Poisson sample of all users, which nobody but the server sees"
                    if drawn
                    else "no amplification by sampling is claimed",
                    True,
                ),
            ),
            histories={client: history_of(mine) for client, mine in steps.items()},
        )


@functools.lru_cache(maxsize=64)
def _calibrated(epsilon: float, delta: float, rate: float, steps: int) -> float:
    return noise_multiplier_for(epsilon, delta, rate, steps)


class NoisyMean:
    """(Σ_u clip_C(Δ_u) + N(0, σ²C²)) / K."""

    name, counts_alike = "user-dp", True

    def __init__(self, clip: float, sigma: float, cohort: int, *, secure: bool = False) -> None:
        self.clip, self.sigma, self.cohort, self.secure = clip, sigma, cohort, secure

    @property
    def claim(self) -> Claim:
        """Of one new model."""
        return Claim(self.clip)

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        total = clipped_sum(updates, self.clip)
        noise = standard_normal(total.shape, updates.generator, secure=self.secure, dtype=total.dtype)
        return (total + self.sigma * self.clip * noise) / self.cohort, state
