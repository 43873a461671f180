"""DP-SGD with faults put in on purpose, around or in place of fedlab's own rule.

Each is a mistake that was made by somebody: noise halved; gradients averaged before they are clipped; batches
of a fixed size accounted as Poisson samples; Opacus' expected batch size, which is rounded down
(https://github.com/pytorch/opacus/issues/571 and 819); the realised batch size for a denominator; noise drawn
once and used again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from fedlab_defenses.privacy.dp_sgd import DPSGD
from fedlab_defenses.privacy.private_gradients import NOISE
from torch import nn

from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules import Aux, Batch, Carry, GradFn, WrappedRule
from fedlab.experiment.probing import Step, of_plan
from fedlab.privacy.mechanism import Claim, Release, Sampling
from fedlab.tasks import FunctionalModel, State

CLIP = 1.0


def network(width: int = 10) -> FunctionalModel:
    """Softmax regression of 64 pixels, or as many rows as are wanted."""
    return FunctionalModel(nn.Sequential(nn.Flatten(), nn.Linear(64, width)), (1, 8, 8))


class Scaled(WrappedRule):
    """Noise times a factor."""

    def __init__(self, inner: LocalRule, factor: float) -> None:
        super().__init__(inner)
        self.factor = factor

    def draws(self, parameters: State, generator: torch.Generator) -> State:
        drawn = self.inner.draws(parameters, generator)
        return {n: v * self.factor if n.startswith(NOISE) else v for n, v in drawn.items()}


class Again(WrappedRule):
    """The same noise in every step."""

    def draws(self, parameters: State, generator: torch.Generator) -> State:
        return self.inner.draws(parameters, torch.Generator().manual_seed(1))


class ClippedLate(WrappedRule):
    """The mean of a batch is clipped, not what it is a mean of."""

    def __init__(self, inner: LocalRule, sigma: float) -> None:
        super().__init__(inner)
        self.sigma = sigma

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        mean, aux = grad_fn(parameters, batch)
        norm = torch.stack([value.square().sum() for value in mean.values()]).sum().sqrt()
        factor = (CLIP / norm).clamp(max=1.0)
        noise = {name: self.sigma * CLIP * batch.draws[f"{NOISE}{name}"] / batch.size for name in mean}
        return {name: factor * value + noise[name] for name, value in mean.items()}, aux, carry


class Divided(WrappedRule):
    """Another denominator."""

    def __init__(self, inner: LocalRule, size: Callable[[Batch], torch.Tensor]) -> None:
        super().__init__(inner)
        self.size = size

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        return self.inner.direction(grad_fn, parameters, batch._replace(size=self.size(batch)), carry)


@dataclass(frozen=True)
class Private:
    """A rule and a configuration, and how they are accounted for."""

    rule: LocalRule
    config: ClientConfig
    sigma: float
    records: int
    rate: float

    def release(self, seed: int) -> Release:
        claim = Claim(CLIP)
        return Step(
            self.rule, claim, network(), self.config, self.records, self.sigma, self.rate, seed
        ).of_gradients()

    def sampling(self, seed: int) -> Sampling:
        return of_plan(self.records, self.config, self.rate, seed, 0)


def correct(sigma: float, records: int, batch: int) -> Private:
    """fedlab's own DP-SGD."""
    config = ClientConfig(batch_size=batch, local_steps=1, learning_rate=0.1, sampling="poisson")
    defense = DPSGD(noise_multiplier=sigma, max_grad_norm=CLIP)
    rule = defense.local_rule(LocalRule(), Federation((records,), 1, config))
    return Private(rule, config, sigma, records, batch / records)


def _scaled(one: Private, factor: float) -> Private:
    return replace(one, rule=Scaled(one.rule, factor))


def _fixed(one: Private) -> Private:
    return replace(one, config=replace(one.config, sampling="shuffle"))


def _opacus(one: Private) -> Private:
    """With a loader of batches of B: q = 1 / ⌈n / B⌉, and the sum over ⌊q n⌋."""
    loader = math.ceil(one.records / one.config.batch_size)
    floor = torch.tensor(float(one.records // loader))
    return replace(one, rule=Divided(one.rule, lambda batch: floor), rate=1.0 / loader)


BUGS: dict[str, Callable[[Private], Private]] = {
    "none": lambda one: one,
    "noise halved": lambda one: _scaled(one, 0.5),
    "noise 1 % short": lambda one: _scaled(one, 0.99),
    "noise used again": lambda one: replace(one, rule=Again(one.rule)),
    "clipped after averaging": lambda one: replace(one, rule=ClippedLate(one.rule, one.sigma)),
    "fixed batches accounted as Poisson": _fixed,
    "Opacus' expected batch size": _opacus,
    "realised batch size": lambda one: replace(
        one, rule=Divided(one.rule, lambda batch: batch.rows.sum().clamp(min=1.0))
    ),
}
