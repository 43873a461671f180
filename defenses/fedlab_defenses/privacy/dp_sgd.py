"""Sample-level differential privacy inside each client: DP-SGD.

Abadi et al.: Deep Learning with Differential Privacy (CCS 2016, https://arxiv.org/abs/1607.00133),
Algorithm 1, as Opacus computes it: each record's gradient is clipped to `max_grad_norm` (C), the sum
gets Gaussian noise of standard deviation σC, and is divided by the expected batch size. Batches are
Poisson samples of the client's records, drawn anew in every step. ε comes from Opacus' PRV
accountant (its Rényi accountant where PRV's grids do not reach; the guarantee names which) over all
steps of all rounds that a client took part in; being sampled into a round amplifies nothing here,
because the server knows whom it asked.

Deviations from Opacus 1.6: the clip factor is min(1, C/‖g‖) (Opacus divides by ‖g‖ + 1e-6), and a
zero gradient has factor 1; an empty Poisson batch sends pure noise. The noise comes from the
simulation's seed tree: it is reproducible and protects no real data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import vmap

from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.clients.config import ClientConfig, Federation
from fedlab.clients.plan import steps_per_round
from fedlab.clients.rules import Aux, Batch, Carry, GradFn, LocalRule, WrappedRule
from fedlab.errors import UsageError
from fedlab.privacy import Assumption, Guarantee, Ledger, epsilon_of, noise_multiplier_for
from fedlab.tasks import BatchNorm, State

NOISE = "dp-noise/"
"""Prefix of this rule's draws."""


class DPSGD(Defense):
    """Clips each record's gradient and adds noise, in the clients.

    Args:
        noise_multiplier: σ, noise over clipping norm. Give this or `epsilon`.
        epsilon: target ε at `delta`; σ is then the smallest that keeps a client within it even if
            the client is asked in every round.
        delta: δ of the guarantee; should lie well below 1 / (records of a client).
        max_grad_norm: C, L2 norm that each record's gradient is clipped to.
    """

    paper = (
        "Abadi et al., Deep Learning with Differential Privacy, CCS 2016, https://arxiv.org/abs/1607.00133"
    )

    example: ClassVar[dict[str, Any]] = {"noise_multiplier": 1.0}
    spends = "client"

    def __init__(
        self,
        *,
        noise_multiplier: float | None = None,
        epsilon: float | None = None,
        delta: float = 1e-5,
        max_grad_norm: float = 1.0,
    ) -> None:
        if (noise_multiplier is None) == (epsilon is None):
            raise UsageError(
                "dp-sgd takes either noise_multiplier or epsilon (a target): expected exactly one of them"
            )
        if noise_multiplier is not None and not 0.0 <= noise_multiplier < math.inf:
            raise UsageError(f"dp-sgd noise_multiplier must be finite and >= 0, got {noise_multiplier}")
        if epsilon is not None and not 0.0 < epsilon < math.inf:
            raise UsageError(f"dp-sgd epsilon must be finite and > 0, got {epsilon}")
        if not 0.0 < max_grad_norm < math.inf:
            raise UsageError(f"dp-sgd max_grad_norm must be finite and > 0, got {max_grad_norm}")
        if not 0.0 < delta < 1.0:
            raise UsageError(f"dp-sgd delta must lie in (0, 1), got {delta}")
        self.noise_multiplier, self.epsilon = noise_multiplier, epsilon
        self.delta, self.max_grad_norm = delta, max_grad_norm

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        """The same network, refused if one record's gradient would depend on another's."""
        return functools.partial(_without_batch_norm, factory)

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
        return PrivateRule(rule, sigma, self.max_grad_norm, federation.config.batch_size)

    def guarantee(self, ledger: Ledger) -> Guarantee | None:
        """The largest ε over the clients that took part, each over all its rounds."""
        if not ledger.events:
            return None
        sigma = min(event.noise_multiplier for event in ledger.events)
        spent = {client: epsilon_of(steps, self.delta) for client, steps in ledger.steps().items()}
        accountants = sorted({one.accountant for one in spent.values()})
        worst = max(one.epsilon for one in spent.values())
        return Guarantee(
            mechanism=(
                f"DP-SGD in the clients: per-record clipping to {self.max_grad_norm:g},"
                f" noise multiplier {sigma:g}"
            ),
            epsilon=worst if math.isfinite(worst) else None,
            delta=self.delta,
            unit="one record of one client",
            adjacency="add or remove one record",
            accountant=f"{' and '.join(accountants)} (opacus {version('opacus')})",
            noise="reproducible simulation noise from the seed tree: protects no real data",
            assumptions=(
                Assumption("Gaussian noise is added in every step", sigma > 0.0),
                Assumption("each step's batch is a Poisson sample of the client's records", True),
                Assumption("each record's gradient is clipped before the sum", True),
                Assumption("the sum is divided by the expected, not the realised, batch size", True),
                Assumption("no layer mixes the records of a batch (no batch norm)", True),
                Assumption("nothing else computed from records is sent (no loss, no buffers)", True),
                Assumption("how many records each client holds is public", True),
                Assumption(
                    "ε is composed over all of a client's rounds; client sampling amplifies nothing", True
                ),
            ),
            per_client={client: one.epsilon for client, one in spent.items()},
            participations=ledger.participations(),
            reason=_why_none(sigma, worst),
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


def sample_rate(batch_size: int, records: int) -> float:
    """q: the probability that a record takes part in a step; batch_size 0 means all records."""
    return min(batch_size or records, records) / records


class PrivateRule(WrappedRule):
    """Another rule, with every gradient that it asks for made private, and nothing else sent.

    Raises:
        UsageError: the rule looks at records more often than once a step, which no noise covers.
    """

    def __init__(self, inner: LocalRule, noise_multiplier: float, clip: float, batch_size: int) -> None:
        super().__init__(inner)
        if inner.gradients > 1 or inner.full_gradient:
            raise UsageError(
                f"dp-sgd cannot protect the local rule {type(inner).__name__}: it takes"
                + (
                    " a gradient of all records at once"
                    if inner.full_gradient
                    else " several gradients a step"
                )
                + ", and the noise is accounted for one batch a step; choose another rule (or SCAFFOLD's"
                " option II)"
            )
        self.shares_buffers = False
        self.noise_multiplier, self.clip, self.batch_size = noise_multiplier, clip, batch_size

    def draws(self, parameters: State, generator: torch.Generator) -> State:
        noise = {
            f"{NOISE}{name}": torch.randn(value.shape, generator=generator)
            for name, value in parameters.items()
        }
        return noise | self.inner.draws(parameters, generator)

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        def private(values: State, part: Batch) -> tuple[State, Aux]:
            return privatise(grad_fn, values, part, self.clip, self.noise_multiplier)

        return self.inner.direction(private, parameters, batch, carry)

    def metrics(self, records: int, steps: int, loss: float) -> dict[str, float]:
        """What the accountant needs, and no loss: that is a function of the records without noise."""
        return {
            "dp-noise-multiplier": self.noise_multiplier,
            "dp-sample-rate": sample_rate(self.batch_size, records),
            "dp-steps": steps,
        }


def privatise(
    grad_fn: GradFn, parameters: State, batch: Batch, clip: float, sigma: float
) -> tuple[State, Aux]:
    """(Σ_i clip(g_i) + σ C ξ) / expected batch size, over the batch's real rows.

    ξ is standard normal and lies in `batch.draws`.
    """

    def one_record(x: Tensor, y: Tensor, masks: State, samples: State) -> tuple[State, Aux]:
        alone = batch._replace(
            x=x[None],
            y=y[None],
            rows=batch.rows.new_ones(1),
            masks={name: mask[None] for name, mask in masks.items()},
            draws={},
            noise={},
            samples={name: sample[None] for name, sample in samples.items()},
        )
        return grad_fn(parameters, alone)

    gradients, aux = vmap(one_record)(batch.x, batch.y, batch.masks, batch.samples)
    squares = [g.reshape(len(g), -1).square().sum(1) for g in gradients.values()]
    norms = torch.stack(squares).sum(0).sqrt()
    factors = batch.rows * (clip / norms).clamp(max=1.0)  # a zero gradient: C / 0 = inf, factor 1
    noisy = {
        name: (torch.tensordot(factors, g, dims=1) + sigma * clip * batch.draws[f"{NOISE}{name}"])
        / batch.size
        for name, g in gradients.items()
    }
    loss = (aux.loss * batch.rows).sum() / batch.rows.sum().clamp(min=1.0)
    return noisy, Aux(loss, {name: value[0] for name, value in aux.buffers.items()})


def _without_batch_norm(factory: Callable[[], nn.Module]) -> nn.Module:
    net = factory()
    mixing = nn.modules.batchnorm._BatchNorm, BatchNorm
    guilty = [name or type(net).__name__ for name, layer in net.named_modules() if isinstance(layer, mixing)]
    if guilty:
        raise UsageError(
            f"dp-sgd cannot protect a network with batch norm ({', '.join(guilty)}): its batch statistics mix"
            ' records, so one record\'s gradient has no bound; set task.model.norm = "group" or "none"'
        )
    return net
