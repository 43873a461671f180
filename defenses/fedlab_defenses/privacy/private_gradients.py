"""A local rule whose every gradient is private: clipped record by record, summed, and noised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from fedlab.clients.gradients import Gradients, Outer
from fedlab.clients.rules import Aux, Batch, Carry, GradFn, LocalRule, Sent, Work, WrappedRule
from fedlab.errors import UsageError
from fedlab.privacy.mechanism import Claim
from fedlab.privacy.noise import standard_normal
from fedlab.tasks import FunctionalModel, State
from fedlab_defenses.privacy.group_norm import refuse_batch_norm
from fedlab_defenses.privacy.thresholds import LIMIT, Flat

NOISE = "dp-noise/"
"""Prefix of the gradients' noise among a rule's draws."""


class PrivateRule(WrappedRule):
    """Another rule, with every gradient that it asks for made private, and nothing else sent.

    Args:
        noise_multiplier: σ that a step is accounted with.
        clip: how gradients are clipped.
        batch_size: as configured; 0 means all records.
        secure: whether the noise comes from the operating system.

    Raises:
        UsageError: the rule looks at records more often than once a step, or in other ways than by gradients,
            which no noise covers.
    """

    def __init__(
        self, inner: LocalRule, noise_multiplier: float, clip: Flat, batch_size: int, *, secure: bool = False
    ) -> None:
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
        if inner.peeks:
            raise UsageError(
                f"dp-sgd cannot protect the local rule {type(inner).__name__}: what it sends depends on"
                " records in other ways than by their gradients, which no noise covers; leave one of them out"
            )
        self.shares_buffers = False
        self.noise_multiplier, self.clip, self.batch_size = noise_multiplier, clip, batch_size
        self.secure = secure

    @property
    def claim(self) -> Claim:
        """Of the gradients of a first step; the noise of counts, where there are any, is not in it."""
        sigma = self.noise_multiplier
        return Claim(self.clip.limit, self.clip.multiplier(sigma) / sigma if sigma else 1.0)

    def meet(self, model: FunctionalModel) -> None:
        refuse_batch_norm("dp-sgd", model.net)
        self.inner.meet(model)

    def memory(self, parameters: State) -> State:
        return self.inner.memory(parameters) | self.clip.memory()

    def draws(self, parameters: State, generator: torch.Generator) -> State:
        def normal(shape: tuple[int, ...]) -> Tensor:
            kind = next(iter(parameters.values())).dtype
            return standard_normal(shape, generator, secure=self.secure, dtype=kind)

        sizes = [value.numel() for value in parameters.values()]
        parts = torch.split(normal((sum(sizes),)), sizes)  # one draw: a cohort makes thousands of them
        noise = {
            f"{NOISE}{name}": part.view(value.shape)
            for (name, value), part in zip(parameters.items(), parts, strict=True)
        }
        return noise | self.clip.draws(normal) | self.inner.draws(parameters, generator)

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        mine, others = _parted(memory)
        return self.inner.start(parameters, others, server, work) | mine

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        mine, others = _parted(carry)
        bound = self.clip.bound(mine)

        def private(values: State, part: Batch) -> tuple[State, Aux]:
            nonlocal mine
            noisy, aux, factors = privatise(
                grad_fn, values, part, self.clip, bound, self.clip.multiplier(self.noise_multiplier)
            )
            mine = self.clip.moved(mine, factors, part)
            return noisy, aux

        direction, aux, others = self.inner.direction(private, parameters, batch, others)
        return direction, aux, others | mine

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        mine, others = _parted(carry)
        sent = self.inner.finish(anchor, parameters, work, others)
        return sent._replace(memory=sent.memory | mine)

    def metrics(self, records: int, steps: int, loss: float) -> dict[str, float]:
        """What the accountant needs, and no loss: that is a function of the records without noise."""
        return {
            "dp-noise-multiplier": self.noise_multiplier,
            "dp-sample-rate": sample_rate(self.batch_size, records),
            "dp-steps": steps,
        }


def sample_rate(batch_size: int, records: int) -> float:
    """q: the probability that a record takes part in a step; batch_size 0 means all records."""
    return min(batch_size or records, records) / records


def privatise(
    grad_fn: GradFn, parameters: State, batch: Batch, clip: Flat, bound: Tensor | float, sigma: float
) -> tuple[State, Aux, State]:
    """(Σ_i clip(g_i) + σ C ξ) / expected batch size over the batch's real rows, and the clip factors (B,).

    ξ is standard normal and lies in `batch.draws`; C is `bound`. A number of a gradient that is not finite
    counts as zero: one record must not reach further than C, whatever it holds.
    """

    gradients, aux = _each(grad_fn, parameters, batch)
    factors = clip.factors({name: one.squares() for name, one in gradients.items()}, bound)
    noisy = {}
    for name, one in gradients.items():
        noise = batch.draws[f"{NOISE}{name}"]
        total = one.weighted(factors[name] * batch.rows).reshape(noise.shape)
        noisy[name] = (total + sigma * bound * noise) / batch.size
    return noisy, aux, factors


class _Dense(NamedTuple):
    """Gradients of B records by one parameter, (B, ...)."""

    values: Tensor

    def squares(self) -> Tensor:
        own: Tensor = self.values.flatten(1).square().sum(1)
        return own

    def weighted(self, weights: Tensor) -> Tensor:
        total: Tensor = torch.tensordot(weights, self.values, dims=1)
        return total


def _each(grad_fn: GradFn, parameters: State, batch: Batch) -> tuple[Mapping[str, Outer | _Dense], Aux]:
    """The gradient of each row alone (a network never sees two of them), as outer products where they are."""
    outer = grad_fn.outer if isinstance(grad_fn, Gradients) and grad_fn.layers else None

    def one_record(x: Tensor, y: Tensor, masks: State, samples: State) -> tuple[dict[str, Any], Aux]:
        alone = batch._replace(
            x=x[None],
            y=y[None],
            rows=batch.rows.new_ones(1),
            masks={name: mask[None] for name, mask in masks.items()},
            draws={},
            noise={},
            samples={name: sample[None] for name, sample in samples.items()},
        )
        return outer(parameters, alone) if outer else grad_fn(parameters, alone)

    gradients, aux = vmap(one_record)(batch.x, batch.y, batch.masks, batch.samples)
    gradients = {name: tree_map(_finite, one) for name, one in gradients.items()}
    loss = (aux.loss * batch.rows).sum() / batch.rows.sum().clamp(min=1.0)
    return (
        gradients if outer else {name: _Dense(one) for name, one in gradients.items()},
        Aux(loss, {name: value[0] for name, value in aux.buffers.items()}),
    )


def _finite(value: Tensor) -> Tensor:
    finite: Tensor = value.nan_to_num(0.0, 0.0, 0.0)
    return finite


def _parted(state: State) -> tuple[State, State]:
    """What is ours in a memory, and what is the inner rule's."""
    mine = {name: value for name, value in state.items() if name == LIMIT}
    return mine, {name: value for name, value in state.items() if name != LIMIT}
