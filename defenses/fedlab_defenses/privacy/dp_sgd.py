"""Sample-level differential privacy inside each client: DP-SGD.

Abadi et al.: Deep Learning with Differential Privacy (CCS 2016, https://arxiv.org/abs/1607.00133),
Algorithm 1, as Opacus computes it: each record's gradient is clipped to `max_grad_norm` (C), the sum
gets Gaussian noise of standard deviation σC, and is divided by the expected batch size. Batches are
Poisson samples of the client's records, drawn anew in every step. ε comes from Opacus' PRV
accountant (its Rényi accountant where PRV's grids do not reach; the guarantee names which) over all
steps of all rounds that a client took part in; being sampled into a round amplifies nothing here,
because the server knows whom it asked.

How gradients are clipped is told in `thresholds.py`, with what differs from Opacus 1.6 in it; a zero
gradient has factor 1, numbers that are not finite count as zeros, and an empty Poisson batch sends pure
noise. The noise comes from the simulation's seed tree, where it is reproducible and protects no real data,
or from the operating system (`[privacy] secure_rng`). The batches always come from the seed tree: who knows
the seed knows them, and to them sampling hides nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.clients.config import ClientConfig, Federation
from fedlab.clients.plan import steps_per_round
from fedlab.clients.rules import LocalRule, WrappedRule
from fedlab.errors import UsageError
from fedlab.privacy import Assumption, Guarantee, Ledger, epsilon_of, history_of, noise_multiplier_for
from fedlab.privacy.noise import source
from fedlab_defenses.privacy.central import bound, target, weak_delta
from fedlab_defenses.privacy.group_norm import with_group_norm, without_batch_norm
from fedlab_defenses.privacy.private_gradients import PrivateRule, sample_rate
from fedlab_defenses.privacy.thresholds import Adaptive, Flat, PerLayer

LIMITS = (1e-6, 1e6)
"""What an adaptive clipping norm stays between, as multiples of `max_grad_norm`."""

UNITS = "the records of the smallest client"

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


class DPSGD(Defense):
    """Clips each record's gradient and adds noise, in the clients.

    Args:
        noise_multiplier: σ, noise over clipping norm. Give this or `epsilon`.
        epsilon: target ε at `delta`; σ is then the smallest that keeps a client within it even if
            the client is asked in every round.
        delta: δ of the guarantee; should lie well below 1 / (records of a client).
        max_grad_norm: C, L2 norm that each record's gradient is clipped to; under adaptive clipping, at
            first.
        clipping: flat (the whole gradient), per-layer (each of L parameter tensors to C / √L), or adaptive
            (to a quantile of the norms, which each client learns for itself).
        fix: put group norm where the network has batch norm, instead of refusing it.
        quantile: of adaptive clipping, the share of gradients that are to stay as they are.
        clip_rate: of adaptive clipping, how fast the norm follows that quantile.
        count_noise: of adaptive clipping, the noise on the number of gradients that stayed as they were; a
            twentieth of the batch size, or σ if that is more, unless given. More than σ / 2.
    """

    paper = (
        "Abadi et al., Deep Learning with Differential Privacy, CCS 2016, https://arxiv.org/abs/1607.00133"
    )

    example: ClassVar[dict[str, Any]] = {"noise_multiplier": 1.0}
    spends = "client"

    def __init__(
        self,
        *,
        noise_multiplier: Annotated[float, Field(ge=0)] | None = None,
        epsilon: Positive | None = None,
        delta: Share = 1e-5,
        max_grad_norm: Positive = 1.0,
        clipping: Literal["flat", "per-layer", "adaptive"] = "flat",
        fix: bool = False,
        quantile: Share = 0.5,
        clip_rate: Positive = 0.2,
        count_noise: Positive | None = None,
    ) -> None:
        target("dp-sgd", noise_multiplier, epsilon, delta)
        self.noise_multiplier, self.epsilon, self.delta = noise_multiplier, epsilon, delta
        self.max_grad_norm = bound("dp-sgd max_grad_norm", max_grad_norm)
        if clipping not in ("flat", "per-layer", "adaptive"):
            raise UsageError(f"dp-sgd clipping = {clipping!r}; expected flat, per-layer or adaptive")
        if not 0.0 < quantile < 1.0:
            raise UsageError(f"dp-sgd quantile = {quantile}; expected a share between 0 and 1, e.g. 0.5")
        self.clipping, self.fix, self.quantile = clipping, fix, quantile
        self.clip_rate = bound("dp-sgd clip_rate", clip_rate)
        self.count_noise = None if count_noise is None else bound("dp-sgd count_noise", count_noise)
        self._fewest = 0
        self._clip: Flat | None = None

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        """The same network; batch norm in it, through which one record's gradient would depend on another's,
        is refused or replaced."""
        return functools.partial(with_group_norm if self.fix else without_batch_norm, factory)

    def config(self, config: ClientConfig) -> ClientConfig:
        """Poisson sampling, which the accountant assumes."""
        return replace(config, sampling="poisson")

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        sigma = self.noise_multiplier
        if self.epsilon is not None:
            sigma = _calibrate(self.epsilon, self.delta, federation)
        if sigma is None:
            raise UsageError("dp-sgd has neither a noise_multiplier nor a target epsilon")
        if _keeps_parameters(rule):
            raise UsageError(
                f"dp-sgd cannot protect the local rule {type(rule).__name__}: clients test their personal"
                " models themselves and send the result, which no noise covers; choose a rule without"
                " personal parameters"
            )
        self._fewest = min(federation.sizes)
        self._clip = self.clip(sigma, federation)
        batch = federation.config.batch_size
        return PrivateRule(rule, sigma, self._clip, batch, secure=federation.secure)

    def clip(self, sigma: float, federation: Federation) -> Flat:
        """How gradients are clipped, whose steps are accounted with σ.

        Raises:
            UsageError: the counts of adaptive clipping have too little noise for that.
        """
        if self.clipping != "adaptive":
            return (PerLayer if self.clipping == "per-layer" else Flat)(self.max_grad_norm)
        batch = federation.config.batch_size or min(federation.sizes)
        noise = max(batch / 20.0, sigma) if self.count_noise is None else self.count_noise
        if sigma >= 2.0 * noise:
            raise UsageError(
                f"dp-sgd count_noise = {noise:g}; expected more than half of the noise multiplier"
                f" ({sigma:g}), because the counts alone must not spend what gradients and counts may spend"
                " together; raise it, or leave it out"
            )
        limits = (LIMITS[0] * self.max_grad_norm, LIMITS[1] * self.max_grad_norm)
        return Adaptive(self.max_grad_norm, self.quantile, self.clip_rate, noise, limits)

    def cautions(self, federation: Federation) -> Sequence[str]:
        return weak_delta("dp-sgd", self.delta, min(federation.sizes), UNITS)

    def guarantee(self, ledger: Ledger) -> Guarantee | None:
        """The largest ε over the clients that took part, each over all its rounds."""
        if not ledger.events:
            return None
        sigma = min(event.noise_multiplier for event in ledger.events)
        steps = ledger.steps()
        spent = {client: epsilon_of(mine, self.delta) for client, mine in steps.items()}
        accountants = sorted({one.accountant for one in spent.values()})
        most_exposed = max(spent, key=lambda client: spent[client].epsilon)
        worst = spent[most_exposed].epsilon
        amiss = next((event.amiss for event in ledger.events if event.amiss), "")
        return Guarantee(
            mechanism=(
                f"DP-SGD in the clients: per-record clipping {self._clip or Flat(self.max_grad_norm)},"
                f" noise multiplier {sigma:g}"
            ),
            epsilon=worst if math.isfinite(worst) else None,
            delta=self.delta,
            unit="one record of one client",
            adjacency="add or remove one record",
            accountant=f"{' and '.join(accountants)} (opacus {version('opacus')})",
            noise=source(ledger.secure),
            assumptions=(
                Assumption("Gaussian noise is added in every step", sigma > 0.0),
                Assumption(f"every step ran as planned{amiss and f' ({amiss})'}", not amiss),
                Assumption("each step's batch is a Poisson sample of the client's records", True),
                Assumption("nobody who attacks knows the run's seed, which the batches come from", True),
                Assumption("each record's gradient is clipped before the sum", True),
                Assumption("the sum is divided by the expected, not the realised, batch size", True),
                Assumption(
                    "no layer mixes the records of a batch"
                    + (" (every batch norm was replaced by group norm)" if self.fix else " (no batch norm)"),
                    True,
                ),
                Assumption("nothing else computed from records is sent (no loss, no buffers)", True),
                Assumption("how many records each client holds is public", True),
                Assumption(
                    "ε is composed over all of a client's rounds; client sampling amplifies nothing", True
                ),
            ),
            per_client={client: one.epsilon for client, one in spent.items()},
            participations=ledger.participations(),
            reason=_why_none(sigma, worst),
            place="client",
            history=history_of(steps[most_exposed]),
            cautions=tuple(weak_delta("dp-sgd", self.delta, self._fewest, UNITS)),
        )


def _keeps_parameters(rule: LocalRule) -> bool:
    while isinstance(rule, WrappedRule):
        rule = rule.inner
    return type(rule).personal is not LocalRule.personal


def _why_none(sigma: float, worst: float) -> str | None:
    if sigma <= 0.0:
        return "the noise multiplier is 0: clipping alone proves nothing"
    return None if math.isfinite(worst) else "ε is too large to compute"


def _calibrate(epsilon: float, delta: float, federation: Federation) -> float:
    """σ that keeps every client within ε, even one that is asked in every round."""
    work = _hardest(federation)
    return max(noise_multiplier_for(epsilon, delta, rate, steps) for rate, steps in work)


def _hardest(federation: Federation) -> list[tuple[float, int]]:
    """(sample rate, steps) of the clients whom no other exceeds in both: ε grows with either, and there
    may be too many kinds of clients to calculate each."""
    config = federation.config
    work = {
        (steps_per_round(records, config) * federation.rounds, sample_rate(config.batch_size, records))
        for records in federation.sizes
    }
    found: list[tuple[float, int]] = []
    for steps, rate in sorted(work, reverse=True):
        if not found or rate > found[-1][0]:
            found.append((rate, steps))
    return found
