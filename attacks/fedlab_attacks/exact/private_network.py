"""What a hypernetwork's heads hand over: the client's private network, and its gradient in it.

For one step of gradient g on θ = H a + c, with the decay λ of the step (the method: `pullback`),

    Δc = -η (g + λ c),        ΔH = -η (g aᵀ + λ H).

- Decay first. Column j of ΔH is a combination of Δc, c and H_j, and the last has the same factor -ηλ in all:
  what is left of ΔH and H outside the span of (Δc, c) gives it by least squares. No rate has to be known.
- With it taken out, [ΔH Δc] = -η g [aᵀ 1] has rank one: its singular vectors are g, up to a factor, and a.
- θ = H a + c then is the network that the client trained, and g is what it would have sent under FedSGD.

Several steps of one client make [ΔH Δc] a sum of such products, with a code and a θ that move: what exceeds
rank one says how much, and the answer is that of the mean step. The gradient's clipping only changes the
factor.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedlab.audit.observation import KnownConfig, Observation
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable
from fedlab.tasks import FunctionalModel, State
from fedlab.tasks.hypernetwork import GeneratedNetwork, classifier, key_of
from fedlab_attacks.reading import unchanged

MIXED = 0.5
"""Share of the update beyond rank one above which there is no code to speak of."""


@dataclass(frozen=True)
class Pulled:
    """A client's private network and its gradient, as another attack wants them.

    Attributes:
        observation: θ and its update, up to a factor; victim: the generated network.
        classifier: name of the private linear layer; fixed: parameters that stand in for it.
        beyond: share of the heads' update beyond rank one; rounding for one step.
        decay: weight decay times learning rate, summed over the steps.
    """

    observation: Observation
    victim: Victim
    classifier: str
    fixed: State
    beyond: float
    decay: float


def pulled_back(observation: Observation, victim: Victim) -> Pulled:
    """The private network of the client behind `observation`.

    Raises:
        NotApplicable: the network is not generated, the heads have no biases or did not change, or no code
            explains how they changed.
    """
    net = victim.model.net
    if not isinstance(net, GeneratedNetwork):
        raise NotApplicable("the network's parameters do not come out of a hypernetwork")
    shapes = net.hypernetwork.shapes
    unchanged(victim, *victim.shared)
    heads = [f"hypernetwork.heads.{key_of(name)}" for name in shapes]
    if any(f"{head}.bias" not in observation.update for head in heads):
        raise NotApplicable("the hypernetwork's heads have no biases, whose change is the private gradient")
    tables = [_Head.of(observation, head) for head in heads]
    if not any(bool(one.bias_change.any()) for one in tables):
        raise NotApplicable("the biases of the hypernetwork's heads did not change")
    decay = _decay(tables)
    width = tables[0].weight.shape[1] + 1
    square = sum((one.without(decay).T @ one.without(decay) for one in tables), torch.zeros(width, width))
    values, vectors = torch.linalg.eigh(square.double())
    beyond = float((values[:-1].clamp(min=0.0).sum() / values.sum()).sqrt())
    direction = vectors[:, -1]
    if not beyond < MIXED or float(direction[-1].abs()) < 1e-6:
        raise NotApplicable(
            f"no hidden code explains how the hypernetwork's heads changed: {beyond:.0%} of it is beyond rank"
            " one (noise, or many large steps)"
        )
    ray = direction / direction[-1]  # [a, 1]
    before, update = {}, {}
    for (name, shape), head in zip(shapes.items(), tables, strict=True):
        before[name] = (torch.cat([head.weight, head.bias[:, None]], 1) @ ray).float().reshape(shape)
        update[name] = (head.without(decay) @ (ray / ray.square().sum())).float().reshape(shape)
    inner, names = _materialised(net)
    model = FunctionalModel(inner, victim.input_shape)
    private = Victim(
        model, victim.loss, victim.input_shape, victim.classes, frozenset(names), disclosure=victim.disclosure
    )
    config = KnownConfig(
        mode=observation.config.mode,
        batch_size=batch_of(observation),
        local_steps=1 if batch_of(observation) else None,
    )
    seen = replace(
        observation,
        before=before,
        update=update,
        buffers_before={},
        buffers_after={},
        config=config,
        examples=None,
    )
    fixed = {name: model.state()[name] for name in names}
    return Pulled(seen, private, names[0].rpartition(".")[0], fixed, beyond, decay)


def batch_of(observation: Observation) -> int | None:
    """Distinct records behind the update: all that the client holds, or those of one batch."""
    config, examples = observation.config, observation.examples
    if config.batch_size is None:
        return None
    return examples or config.batch_size or None


@dataclass(frozen=True)
class _Head:
    """A head's weight (m, h), bias (m,), and their changes, in float64."""

    weight: Tensor
    bias: Tensor
    change: Tensor
    bias_change: Tensor

    @classmethod
    def of(cls, observation: Observation, name: str) -> _Head:
        before, update = observation.before, observation.update
        keys = (f"{name}.weight", f"{name}.bias")
        sent, changed = [before[key].double() for key in keys], [update[key].double() for key in keys]
        return cls(sent[0], sent[1], changed[0], changed[1])

    def without(self, decay: float) -> Tensor:
        """[ΔH Δc] (m, h + 1) with the decay taken out."""
        return torch.cat(
            [self.change + decay * self.weight, (self.bias_change + decay * self.bias)[:, None]], dim=1
        )


def _decay(heads: Sequence[_Head]) -> float:
    """Learning rate times weight decay: how much of itself every weight lost; at least 0."""
    basis = torch.stack(
        [torch.cat([one.bias_change for one in heads]), torch.cat([one.bias for one in heads])], dim=1
    )
    basis, _ = torch.linalg.qr(basis)
    change, weight = (torch.cat([getattr(one, key) for one in heads]) for key in ("change", "weight"))
    seen, own = basis.T @ change, basis.T @ weight
    across = float((change * weight).sum() - (seen * own).sum())
    size = float(weight.square().sum() - own.square().sum())
    return max(0.0, -across / size) if size > 0.0 else 0.0


def _materialised(net: GeneratedNetwork) -> tuple[nn.Module, tuple[str, ...]]:
    """The generated network as one of its own, and the names of its classifier's parameters."""
    inner = copy.deepcopy(net._network[0]).to_empty(device="cpu")
    names = classifier(dict(inner.named_parameters()))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in inner.parameters():
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return inner, names
