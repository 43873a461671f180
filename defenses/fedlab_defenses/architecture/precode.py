"""PRECODE: a variational bottleneck in front of the classifier, whose noise the gradient carries.

Scheliga, Mäder, Seeland, "PRECODE - A Generic Model Extension to Prevent Deep Gradient Leakage", WACV 2022,
https://arxiv.org/abs/2108.04725. The classifier's input h is replaced by a draw:

    μ, s = E h + e;   σ = softplus(s);   z = μ + σ ε, ε ~ N(0, I);   h' = D z + d,

with k numbers in z, and the loss gets β KL(N(μ, σ²) ‖ N(0, I)), its mean over the batch. Every gradient
before and behind the draw then depends on ε, which nobody but the client knows.

It is a heuristic: layers in front of the bottleneck keep their closed forms (a linear layer with a bias gives
its input away at one record whatever happens behind it), and an attack that leaves the bottleneck's own
gradient out of the matching, or looks for ε beside the image, sees through the rest (Balunović, Dimitrov,
Staab, Vechev, "Bayesian Framework for Gradient Leakage", ICLR 2022, https://arxiv.org/abs/2111.04706).

Deviation: the KL counts nats (published code: bits). Clients in evaluation mode draw nothing and have no such
term: there the network is one with two more linear layers.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from fedlab.audit.defense import Defense, NetworkFactory
from fedlab.audit.disclosure import Disclosure
from fedlab.errors import UsageError
from fedlab.tasks import FunctionalModel
from fedlab.tasks.layers import GaussianSample

LEAST = 1e-6
"""Deviations below this count as this in ln σ."""


class Precode(Defense):
    """Puts a variational bottleneck before the classifier: h' = D(μ(h) + σ(h) ε) + d, plus β KL.

    Scheliga, Mäder, Seeland, "PRECODE", WACV 2022, https://arxiv.org/abs/2108.04725.

    Args:
        size: k, numbers that are drawn.
        beta: β, weight of the KL divergence from N(0, I) in the loss.
    """

    paper = (
        "Scheliga, Mäder, Seeland, PRECODE - A Generic Model Extension to Prevent Deep Gradient Leakage,"
        " WACV 2022, https://arxiv.org/abs/2108.04725"
    )
    adaptive = ("cascade", "training-client")

    def __init__(
        self, *, size: Annotated[int, Field(ge=1)] = 256, beta: Annotated[float, Field(ge=0)] = 1e-3
    ) -> None:
        if size < 1:
            raise UsageError(f"size = {size}; expected at least 1 number in precode's bottleneck")
        if not 0.0 <= beta < float("inf"):
            raise UsageError(f"beta = {beta}; expected a finite weight of at least 0")
        self.size, self.beta = size, beta

    def network(self, factory: NetworkFactory) -> NetworkFactory:
        return functools.partial(_narrowed, factory, self.size, self.beta)

    def disclosure(self, model: FunctionalModel) -> Disclosure:
        """The bottleneck's own gradients are those of its draws, and better left out of the matching."""
        inside = [name for name, layer in model.net.named_modules() if isinstance(layer, Bottleneck)]
        return Disclosure(
            distorted=frozenset(
                name for name in model.parameter_names if any(name.startswith(f"{one}.") for one in inside)
            )
        )


class Bottleneck(nn.Module):
    """(B, features) to (B, features) through k numbers drawn from a normal distribution.

    In training `penalty` (B,) is β KL(N(μ, σ²) ‖ N(0, I)) of each example, as
    `fedlab.tasks.FunctionalModel.penalised` takes it.
    """

    penalty: Tensor | None

    def __init__(self, features: int, size: int, beta: float) -> None:
        super().__init__()
        self.beta = beta
        self.encoder = nn.Linear(features, 2 * size)
        self.sample = GaussianSample()
        self.decoder = nn.Linear(size, features)
        self.register_buffer("penalty", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, raw = self.encoder(x).chunk(2, dim=-1)
        deviation = nn.functional.softplus(raw)
        if self.penalty is not None:
            apart = (mean.square() + deviation.square() - 1.0) / 2.0 - deviation.clamp(min=LEAST).log()
            self.penalty = self.beta * apart.flatten(1).sum(1)
        out: Tensor = self.decoder(self.sample(mean, deviation))
        return out


def _narrowed(factory: NetworkFactory, size: int, beta: float) -> nn.Module:
    """The network with a bottleneck in front of its last layer.

    Raises:
        UsageError: the last layer with parameters is no linear one, or has no name.
    """
    net = factory()
    learned = [(name, one) for name, one in net.named_modules() if any(True for _ in one.parameters(False))]
    name, last = learned[-1] if learned else ("", net)
    if not isinstance(last, nn.Linear) or not name:
        raise UsageError(
            f"precode stands in front of the classifier, but the last layer with parameters is"
            f" {name or 'the network itself,'} ({type(last).__name__}); expected a linear layer inside a"
            " network (as mlp, convnet, resnet and vit have it)"
        )
    parent, _, child = name.rpartition(".")
    layers = OrderedDict[str, nn.Module](bottleneck=Bottleneck(last.in_features, size, beta), classifier=last)
    setattr(net.get_submodule(parent), child, nn.Sequential(layers))
    return net
