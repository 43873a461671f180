"""MixUp: train on mixtures of two records and of their labels.

Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018,
https://arxiv.org/abs/1710.09412. In each step

    x̃_i = λ x_i + (1 − λ) x_σ(i),   λ ~ Beta(α, α), σ a random order of the batch,
    F = mean_i λ ℓ(x̃_i, y_i) + (1 − λ) ℓ(x̃_i, y_σ(i)),

one λ for the batch, as in the authors' code. InstaHide (Huang, Song, Li, Arora, ICML 2020,
https://arxiv.org/abs/2010.02772) is this with more records, public ones among them, and random signs; it was
decoded (Carlini et al., IEEE S&P 2021, https://arxiv.org/abs/2011.05315).

What is given away are mixtures. An exact attack finds them whatever their labels are, and at one record per
step there is nothing to mix. A record's gradient here contains another record, so that noise for single
records (dp-sgd) does not cover it: the two are refused together.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from fedlab.audit.defense import Defense
from fedlab.audit.disclosure import Disclosure
from fedlab.clients.config import Federation
from fedlab.clients.rules import Aux, Batch, Carry, GradFn, LocalRule, WrappedRule
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel, State
from fedlab_defenses.privacy.private_gradients import PrivateRule

SHARE, ORDER = "mixup-share", "mixup-order"
"""Keys of this rule's draws: λ; and of its noise: (B,) uniform numbers, in whose order records are mixed."""


class MixUp(Defense):
    """Trains on x̃ = λ x_a + (1 − λ) x_b with the loss λ ℓ(x̃, y_a) + (1 − λ) ℓ(x̃, y_b), λ ~ Beta(α, α).

    Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018,
    https://arxiv.org/abs/1710.09412.

    Args:
        alpha: α; 0 mixes nothing, 1 draws λ evenly, and the larger, the nearer λ is to 1/2.
    """

    paper = (
        "Zhang, Cisse, Dauphin, Lopez-Paz, mixup: Beyond Empirical Risk Minimization, ICLR 2018,"
        " https://arxiv.org/abs/1710.09412"
    )
    example: ClassVar[dict[str, Any]] = {"alpha": 1.0}
    adaptive = ("cascade", "deep-leakage")

    def __init__(self, *, alpha: Annotated[float, Field(ge=0)] = 1.0) -> None:
        if not 0.0 <= alpha < math.inf:
            raise UsageError(f"alpha = {alpha}; expected a finite number of at least 0")
        self.alpha = alpha

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return MixedRule(rule, self.alpha) if self.alpha else rule

    def disclosure(self, model: FunctionalModel) -> Disclosure:
        return Disclosure(altered=self.alpha > 0.0)


class MixedRule(WrappedRule):
    """Another rule, every gradient of which is one of mixtures.

    Raises:
        UsageError: the rule takes a gradient of all records as they are, or bounds that of each.
    """

    def __init__(self, inner: LocalRule, alpha: float) -> None:
        super().__init__(inner)
        if inner.full_gradient:
            raise UsageError(
                f"mixup mixes the records of a step, but the local rule {type(inner).__name__} also takes a"
                " gradient of all records as they are; choose another rule (or SCAFFOLD's option II)"
            )
        layer: LocalRule = inner
        while isinstance(layer, WrappedRule):
            if isinstance(layer, PrivateRule):
                raise UsageError(
                    "mixup and dp-sgd cannot be used together: a mixture's gradient is made of two records,"
                    " and a bound on it is none on what one record changes; leave one of them out"
                )
            layer = layer.inner
        self.alpha = alpha
        self.gradients = 2 * inner.gradients

    def draws(self, parameters: State, generator: torch.Generator) -> State:
        drawn = self.inner.draws(parameters, generator)
        seed = int(torch.randint(2**62, (), generator=generator))  # torch's Beta takes no generator
        kind = next(iter(parameters.values())).dtype
        share = np.random.default_rng(seed).beta(self.alpha, self.alpha)
        return drawn | {SHARE: torch.tensor(share, dtype=kind)}

    def noise(self, shape: torch.Size, generator: torch.Generator) -> State:
        drawn = self.inner.noise(shape, generator)
        return drawn | {ORDER: torch.rand(shape[0], generator=generator)}

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        def mixed(values: State, part: Batch) -> tuple[State, Aux]:
            # Padding has 1, more than any draw, and is mixed with padding.
            order = part.noise[ORDER].argsort(stable=True)
            share = part.draws[SHARE]
            x = torch.lerp(part.x[order], part.x, share.to(part.x.dtype))
            mine, aux = grad_fn(values, part._replace(x=x))
            others, other = grad_fn(values, part._replace(x=x, y=part.y[order]))
            gradient = {name: torch.lerp(others[name], value, share) for name, value in mine.items()}
            return gradient, aux._replace(loss=torch.lerp(other.loss, aux.loss, share.to(aux.loss.dtype)))

        return self.inner.direction(mixed, parameters, batch, carry)
