"""Take out of a fully connected layer's gradient what its input tells most of the records.

Sun, Li, Wang, Yang, Li, Chen, "Soteria: Provable Defense Against Privacy Leakage in Federated Learning From
Representation Perspective", CVPR 2021, https://arxiv.org/abs/2012.06043, section 4. With r = f(x) the
representation that the layer is fed, the columns of ∂L/∂W of those r_i are pruned that have the largest

    |r_i| / ‖∂r_i/∂x‖₂       (‖r_i (∂r_i/∂x)⁻¹‖ in the paper's L0 case),

`ratio` of them, in every step. In the authors' code (https://github.com/jeremy313/Soteria) the score is
inverted, ‖∂r_i/∂x‖ / r_i, summed over the batch, and its lowest percentile is cut; so it is here.

What the paper proves is a bound on the distance between records of equal representation; it is no guarantee
against an attacker, and none is claimed. One who leaves the layer out of the matching hardly notices: M.
Balunović, D. I. Dimitrov, R. Staab, M. Vechev, "Bayesian Framework for Gradient Leakage", ICLR 2022,
https://arxiv.org/abs/2111.04706.

Deviations: the layer is the network's last linear one unless named; scores are of |r_i|, and a unit that is
0 for a record, whose score is infinite, is not pruned (as in the code); exactly ⌊ratio · units⌋ are cut
instead of those below a percentile; dropout masks are those of the step, which the paper does without;
networks with batch norm are refused, because there a representation is not of one record.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.audit.disclosure import Disclosure
from fedlab.clients.config import Federation
from fedlab.clients.rules import Aux, Batch, Carry, GradFn, LocalRule, WrappedRule
from fedlab.errors import UsageError
from fedlab.tasks import BatchNorm, FunctionalModel, State
from fedlab_defenses.privacy.private_gradients import PrivateRule

ROWS = 32
"""Rows of a record's Jacobian that are worked out at once."""


class Soteria(Defense):
    """Prunes the gradient of one linear layer by how much its inputs tell of the records.

    Args:
        ratio: share of the layer's inputs whose gradient is cut.
        layer: name of the layer; the network's last linear one unless given.
    """

    paper = (
        "Sun, Li, Wang, Yang, Li, Chen, Soteria: Provable Defense Against Privacy Leakage in Federated"
        " Learning From Representation Perspective, CVPR 2021, https://arxiv.org/abs/2012.06043"
    )
    adaptive = ("cascade",)

    def __init__(self, *, ratio: Annotated[float, Field(ge=0, lt=1)] = 0.4, layer: str | None = None) -> None:
        if not 0.0 <= ratio < 1.0:
            raise UsageError(f"soteria ratio = {ratio}; expected at least 0 and below 1")
        self.ratio, self.layer = ratio, layer

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        return functools.partial(_checked, factory, self.layer)

    def local_rule(self, rule: LocalRule, federation: Federation) -> LocalRule:
        return SoteriaRule(rule, self.ratio, self.layer)

    def disclosure(self, model: FunctionalModel) -> Disclosure:
        distorted = f"{defended(model.net, self.layer)}.weight"
        return Disclosure(distorted=frozenset({distorted} if self.ratio else ()))


class SoteriaRule(WrappedRule):
    """Another rule, each of whose steps leaves a part of one layer's weights alone.

    Raises:
        UsageError: gradients have noise, past which the choice of what is pruned would tell of the records.
    """

    def __init__(self, inner: LocalRule, ratio: float, layer: str | None) -> None:
        super().__init__(inner)
        self.peeks = True
        below = inner
        while isinstance(below, WrappedRule):
            if isinstance(below, PrivateRule):
                raise UsageError(
                    "soteria and dp-sgd cannot be used together: which weights are pruned is seen in the"
                    " update, and depends on records without noise; leave one of them out"
                )
            below = below.inner
        self.ratio, self.layer = ratio, layer
        self._model: FunctionalModel | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_model": None}  # workers meet a model of their own

    def meet(self, model: FunctionalModel) -> None:
        super().meet(model)
        defended(model.net, self.layer)
        self._model = model

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        slope, aux, carry = self.inner.direction(grad_fn, parameters, batch, carry)
        if self._model is None:
            raise UsageError("soteria has met no network; train with fedlab.clients.LocalTraining")
        layer = defended(self._model.net, self.layer)
        kept = spared(sensitivity(self._model, layer, parameters, batch), self.ratio)
        name = f"{layer}.weight"
        return slope | {name: slope[name] * kept}, aux, carry


def sensitivity(model: FunctionalModel, layer: str, parameters: State, batch: Batch) -> Tensor:
    """(F,) Σ ‖∂r_i/∂x‖₂ / |r_i| over a batch's records, for each input r_i of `layer`; inf where r_i = 0."""
    state = {**model.buffers_of(model.state()), **parameters}

    def one(x: Tensor, masks: State, noise: State) -> tuple[Tensor, Tensor]:
        def representation(image: Tensor) -> tuple[Tensor, Tensor]:
            found = fed(model, layer, state, image, masks, noise)
            return found, found

        slope, value = torch.func.jacrev(representation, has_aux=True, chunk_size=ROWS)(x)
        return slope.flatten(1).norm(dim=1), value.abs()

    slopes, sizes = torch.func.vmap(one)(batch.x, batch.masks, batch.samples)
    scores = torch.where(sizes > 0, slopes / sizes, torch.inf)
    return torch.where(batch.rows[:, None] > 0, scores, 0.0).sum(0)


def spared(scores: Tensor, ratio: float) -> Tensor:
    """(F,) 0 for the ⌊ratio F⌋ lowest scores that are finite, 1 for the others."""
    cut = int(ratio * scores.numel())
    if not cut:
        return torch.ones_like(scores)
    threshold = scores.topk(cut, largest=False).values[-1]
    return ((scores > threshold) | scores.isinf()).to(scores.dtype)


def fed(
    model: FunctionalModel, layer: str, state: State, image: Tensor, masks: State, noise: State
) -> Tensor:
    """(F,) what `layer` is fed for an image (C, H, W); masks and noise are of that record alone."""
    caught: list[Tensor] = []

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        caught.append(given[0])

    hook = model.net.get_submodule(layer).register_forward_pre_hook(note)
    try:
        model(
            state,
            image[None],
            training=False,
            masks={name: value[None] for name, value in masks.items()},
            noise={name: value[None] for name, value in noise.items()},
        )
    finally:
        hook.remove()
    return caught[0][0]


def defended(net: nn.Module, layer: str | None) -> str:
    """Name of the layer that is pruned, in a network that may be a part of a larger one.

    Raises:
        UsageError: there is no such linear layer, or the network has batch norm.
    """
    norms = [name for name, one in net.named_modules() if isinstance(one, _MIXING)]
    if norms:
        raise UsageError(
            f"soteria asks how a record moves its own representation, but {norms[0]} mixes the records of a"
            ' batch; set task.model.norm = "group" or "none"'
        )
    linear = [name for name, one in net.named_modules() if isinstance(one, nn.Linear)]
    found = [one for one in linear if layer is None or f".{one}".endswith(f".{layer}")]
    if not found:
        raise UsageError(
            f"soteria layer = {layer!r}; expected a linear layer of the network:"
            f" {', '.join(linear) or 'it has none'}"
        )
    last: str = found[-1]
    return last


def _checked(factory: Callable[[], nn.Module], layer: str | None) -> nn.Module:
    net = factory()
    defended(net, layer)
    return net


_MIXING = nn.modules.batchnorm._BatchNorm, BatchNorm
