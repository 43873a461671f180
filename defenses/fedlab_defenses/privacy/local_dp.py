"""Local differential privacy: each client clips its whole update and adds noise to it, before it is sent.

The Gaussian mechanism on one vector (Dwork, Roth, "The Algorithmic Foundations of Differential Privacy",
2014, https://doi.org/10.1561/0400000042, Appendix A), which every client runs for itself, as in Wei et al.,
"Federated Learning with Differential Privacy", IEEE TIFS 2020, https://arxiv.org/abs/1911.00222 (there, the
uplink's noise):

    Δ~ = min(1, C / ‖Δ‖) Δ + N(0, σ² (2C)² I).

What a client sends is protected against the server and everybody else. The unit is the client with all of its
records; whether it takes part is public, so that neighbours are updates of the same client on other records:
two clipped updates lie up to 2C apart, and σ is the noise's standard deviation over that distance, 2C. Nobody
is sampled, hence nothing amplifies: ε is exact, by the analytic Gaussian (`fedlab.privacy.gaussian`) with
μ² = rounds / σ² for a client that took part in so many rounds.

Deviations from Wei et al.: σ from the exact formula, not from the bound of Appendix A (which holds for ε < 1
only); no noise at the server. An update that is not finite counts as zero.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.clients.config import Federation
from fedlab.clients.rules import Carry, LocalRule, Sent, Work, WrappedRule
from fedlab.errors import UsageError
from fedlab.privacy import Assumption, Guarantee, Ledger, history_of
from fedlab.privacy.accountants import Steps
from fedlab.privacy.gaussian import gaussian_epsilon, least
from fedlab.privacy.mechanism import Claim
from fedlab.privacy.noise import source, standard_normal
from fedlab.tasks import State
from fedlab_defenses.privacy.central import QuietRule, bound, target, weak_delta, without_batch_norm

NOISE = "local-dp/"
"""Prefix of this rule's draws."""
LOUDEST = 1e4
"""A noise multiplier beyond which nothing is left to learn from."""


class LocalDP(Defense):
    """Each client clips its update and adds noise to it: Δ~ = clip_C(Δ) + N(0, σ²(2C)²).

    Wei et al., "Federated Learning with Differential Privacy", IEEE TIFS 2020,
    https://arxiv.org/abs/1911.00222.

    Protects each client, with all of its records, from the server and whoever else sees what it sends.

    Args:
        clip: C, the L2 norm that an update is clipped to.
        noise_multiplier: σ, the noise over 2C, the furthest that two updates lie apart. Give this or
            `epsilon`.
        epsilon: target ε at `delta`; σ is then the smallest that keeps a client within it that takes part as
            often as one can: in all rounds, or `max_participations` times.
        delta: δ of the guarantee; should lie well below 1 / (number of clients).
    """

    paper = (
        "Wei, Li, Ding, Ma, Yang, Farokhi, Jin, Quek, Poor, Federated Learning with Differential Privacy,"
        " IEEE TIFS 2020, https://arxiv.org/abs/1911.00222"
    )
    example: ClassVar[dict[str, Any]] = {"noise_multiplier": 1.0}
    spends = "client"

    def __init__(
        self,
        *,
        clip: Annotated[float, Field(gt=0)] = 1.0,
        noise_multiplier: Annotated[float, Field(ge=0)] | None = None,
        epsilon: Annotated[float, Field(gt=0)] | None = None,
        delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5,
    ) -> None:
        target("local-dp", noise_multiplier, epsilon, delta)
        self.clip = bound("local-dp clip", clip)
        self.noise_multiplier, self.epsilon, self.delta = noise_multiplier, epsilon, delta
        self._clients = 0

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        return functools.partial(without_batch_norm, "local-dp", factory)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        self._clients = len(federation.records)
        quiet = QuietRule("local-dp", rule)
        return NoisyUpdate(quiet, self.sigma(federation), self.clip, secure=federation.secure)

    def sigma(self, federation: Federation) -> float:
        """The noise multiplier, as given or as the target needs it."""
        if self.noise_multiplier is not None or self.epsilon is None:
            return float(self.noise_multiplier or 0.0)
        return _calibrated(self.epsilon, self.delta, federation.most)

    def cautions(self, federation: Federation) -> Sequence[str]:
        return weak_delta("local-dp", self.delta, len(federation.records), "clients")

    def guarantee(self, ledger: Ledger) -> Guarantee | None:
        """The largest ε over the clients that took part, each over all its rounds."""
        if not ledger.events:
            return None
        steps = ledger.steps()
        spent = {client: _epsilon(mine, self.delta) for client, mine in steps.items()}
        most_exposed = max(spent, key=lambda client: spent[client])
        sigma, worst = min(event.noise_multiplier for event in ledger.events), spent[most_exposed]
        amiss = next((event.amiss for event in ledger.events if event.amiss), "")
        return Guarantee(
            mechanism=(
                f"local DP: each client's update clipped to {self.clip:g}, with noise of"
                f" {sigma:g} times {2.0 * self.clip:g}"
            ),
            epsilon=worst if math.isfinite(worst) else None,
            delta=self.delta,
            unit="one client, with all records and all rounds",
            adjacency="replace a client's records by as many others (who takes part when is public)",
            accountant="analytic Gaussian (Balle and Wang 2018), exact without sampling",
            noise=source(ledger.secure),
            assumptions=(
                Assumption("Gaussian noise is added to every update before it is sent", sigma > 0.0),
                Assumption(f"every round ran as planned{amiss and f' ({amiss})'}", not amiss),
                Assumption("each update is clipped as a whole, by the client", True),
                Assumption("nothing else computed from records is sent (no loss, no buffers)", True),
                Assumption("how many records each client holds is public", True),
                Assumption("ε is composed over all of a client's rounds; sampling amplifies nothing", True),
                Assumption("when devices are online and how fast they are says nothing about records", True),
            ),
            per_client=spent,
            participations=ledger.participations(),
            reason="the noise multiplier is 0: clipping alone proves nothing" if sigma <= 0.0 else None,
            place="client",
            history=history_of(steps[most_exposed]),
            cautions=tuple(weak_delta("local-dp", self.delta, self._clients, "clients")),
        )


class NoisyUpdate(WrappedRule):
    """Another rule, whose update is clipped and noised as a whole.

    Args:
        sigma: standard deviation of the noise over 2 `clip`.
        secure: whether the noise comes from the operating system.
    """

    def __init__(self, inner: LocalRule, sigma: float, clip: float, *, secure: bool = False) -> None:
        super().__init__(inner)
        self.sigma, self.clip, self.secure = sigma, clip, secure

    @property
    def claim(self) -> Claim:
        """Of one update."""
        return Claim(self.clip, 2.0, "update")

    def ending(self, parameters: State, generator: torch.Generator) -> State:
        noise = {
            f"{NOISE}{name}": standard_normal(value.shape, generator, secure=self.secure, dtype=value.dtype)
            for name, value in parameters.items()
        }
        return noise | self.inner.ending(parameters, generator)

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        sent = self.inner.finish(anchor, parameters, work, carry)
        update = {name: value - anchor[name] for name, value in sent.parameters.items()}
        norm = torch.stack([value.square().sum() for value in update.values()]).sum().sqrt()
        factor = (self.clip / norm).clamp(max=1.0)  # a zero update: C / 0 = inf, factor 1
        return sent._replace(
            parameters={
                name: anchor[name]
                + torch.where(torch.isfinite(norm), factor * value, torch.zeros_like(value))
                + 2.0 * self.clip * self.sigma * work.draws[f"{NOISE}{name}"]
                for name, value in update.items()
            }
        )

    def metrics(self, records: int, steps: int, loss: float) -> dict[str, float]:
        """What the accountant needs: one Gaussian a round, of everything."""
        return {"dp-noise-multiplier": self.sigma, "dp-sample-rate": 1.0, "dp-steps": 1}


def _epsilon(steps: Steps, delta: float) -> float:
    """ε of rounds with these noise multipliers, rounded up to the ninth decimal."""
    squares = sum(count / sigma**2 if sigma else math.inf for (sigma, _), count in steps.items())
    epsilon = gaussian_epsilon(math.sqrt(squares), delta)
    return math.ceil(epsilon * 1e9) / 1e9 if math.isfinite(epsilon) else epsilon


@functools.lru_cache(maxsize=64)
def _calibrated(epsilon: float, delta: float, rounds: int) -> float:
    """The smallest σ whose `rounds` rounds stay within ε.

    Raises:
        UsageError: there is none below `LOUDEST`.
    """

    def enough(sigma: float) -> bool:
        return _epsilon({(sigma, 1.0): rounds}, delta) <= epsilon

    if not enough(LOUDEST):
        raise UsageError(
            f"local-dp epsilon = {epsilon:g}; at delta {delta:g} over {rounds} rounds it takes a noise"
            f" multiplier above {LOUDEST:g}; allow a larger epsilon or fewer rounds"
        )
    return least(enough, 1e-6)
