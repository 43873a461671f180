"""HyperFL's hypernetwork hands over its client's private parameters, and then their gradient.

P. Guo et al., "A New Federated Learning Framework Against Gradient Inversion Attacks", AAAI 2025,
https://arxiv.org/abs/2412.07187, shares only a hypernetwork φ; the embedding, the generated parameters θ and
the classifier stay with the client. But φ ends in linear heads with biases, θ = H a + c, with one private
hidden code a (h,) in front of all of them. For one step, with g = ∂L/∂θ and the decay λ of the step,

    Δc = -η (g + λ c),        ΔH = -η (g aᵀ + λ H).

- Decay first. Column j of ΔH is a combination of Δc, c and H_j, and the last has the same factor -ηλ in all:
  what is left of ΔH and H outside the span of (Δc, c) gives it by least squares. No rate has to be known.
- With it taken out, [ΔH Δc] = -η g [aᵀ 1] has rank one: its singular vectors are g, up to a factor, and a.
- θ = H a + c then is the network that the client trained, and g is what it would have sent under FedSGD.

So the client's network is attacked as any other whose classifier is unknown: first by closed forms that ask
for neither classifier nor label (`PatchEmbedding`, `LayerPeel`); where they do not apply, by matching. A
generated linear layer with a bias still gives its own input and output cotangent (one record), and then an
image is sought whose features, and whose gradient under that cotangent, are the known ones. Without one, or
for several records, the cotangent of the classifier's input is sought together with the images.

Several steps of one client make [ΔH Δc] a sum of such products, with a code and a θ that move: what exceeds
rank one (`details["beyond rank one"]`) says how much, and the answer is that of the mean step. The gradient's
clipping only changes the factor. Deviations: the idea is ours; that paper's own attack matches the gradient
of φ with a random embedding and classifier, which leaves it at chance.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import KnownConfig, Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable, UsageError
from fedlab.tasks import FunctionalModel, State
from fedlab.tasks.hypernetwork import GeneratedNetwork, classifier, key_of
from fedlab_attacks.exact.algebra import COARSE
from fedlab_attacks.exact.layer_peel import LayerPeel
from fedlab_attacks.exact.patch_embedding import PatchEmbedding
from fedlab_attacks.reading import Ticker, batch_size, probe

METHOD = "hypernetwork pull-back"
MIXED = 0.5
"""Share of the update beyond rank one above which there is no code to speak of."""
LARGEST_BATCH = 64
GREY, SPREAD = 0.3, 0.05
"""Where the matching starts: noise hardly above a dark grey, because pooling has many false minima."""


class HypernetworkPullback(Attack):
    """Reads a client's private parameters off its hypernetwork's update, and inverts their gradient.

    Args:
        iterations: of the matching, where closed forms do not apply.
        step: Adam's first step, in pixels.
        total_variation: weight of the mean absolute difference of neighbouring pixels at first; it fades.

    Raises:
        UsageError: a parameter is out of range.
    """

    needs: ClassVar = frozenset({"batch_size"})
    paper: ClassVar[str] = "against Guo et al., HyperFL, AAAI 2025 (ours)"
    exact: ClassVar[bool] = True
    personal: ClassVar[bool] = True

    def __init__(self, *, iterations: int = 500, step: float = 0.1, total_variation: float = 0.3) -> None:
        if iterations < 1 or not step > 0.0 or not total_variation >= 0.0:
            raise UsageError(
                f"HypernetworkPullback: iterations = {iterations}, step = {step}, total_variation ="
                f" {total_variation}; expected at least 1, above 0, and at least 0"
            )
        self.iterations, self.step, self.total_variation = iterations, step, total_variation

    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> list[Reconstruction]:
        ticker = Ticker(report, len(observations) * self.iterations)
        answers = []
        for number, observation in enumerate(observations, start=1):
            try:
                answers.append(self._invert(pulled_back(observation, victim), threat, generator, ticker))
            except NotApplicable as error:
                answers.append(Reconstruction.refused(error, Certificate.refused(METHOD, str(error))))
            ticker.advance(number * self.iterations - ticker.done)
        return answers

    def _invert(
        self, pulled: Pulled, threat: ThreatModel, generator: torch.Generator, ticker: Ticker
    ) -> Reconstruction:
        details: dict[str, float | int | str] = {
            "beyond rank one": pulled.beyond,
            "decay per step": pulled.decay,
        }
        tried: list[Certificate] = []
        for closed in (PatchEmbedding(), LayerPeel()):
            (answer,) = closed([pulled.observation], threat, pulled.victim, generator=generator)
            tried += answer.certificates
            if any(one.proves for one in answer.certificates):
                return replace(answer, details=details | answer.details, certificates=tuple(tried))
        batch = batch_size(pulled.observation, threat)
        if batch is None or batch > LARGEST_BATCH:
            raise NotApplicable(
                f"{batch or 'an unknown number of'} records are more than are matched at once"
            )
        target = fed_linear(pulled) if batch == 1 and pulled.beyond < COARSE else None
        images, residual = self._match(pulled, target, batch, generator, ticker)
        found = "matching features and their gradient" if target else "matching with a free cotangent"
        why = f"the private parameters follow, but not the image: it was found by {found}"
        return Reconstruction(
            images=images,
            residual=residual,
            details=details | {"found by": found, "batch": batch},
            certificates=(*tried, Certificate.refused(METHOD, why)),
        )

    def _match(
        self,
        pulled: Pulled,
        target: Fed | None,
        batch: int,
        generator: torch.Generator,
        ticker: Ticker,
    ) -> tuple[Tensor, float]:
        """(B, C, H, W) whose features and gradient are the known ones, and how far off they are."""
        victim, observation = pulled.victim, pulled.observation
        state = {name: value.clone().requires_grad_() for name, value in observation.before.items()}
        noise = torch.rand(batch, *victim.input_shape, generator=generator)
        images = (GREY + SPREAD * noise).requires_grad_()
        name = target.name if target else pulled.classifier
        inputs = victim.model.net.get_submodule(name).get_parameter("weight").shape[1]
        free = torch.randn(batch, inputs, generator=generator) / inputs**0.5
        cotangent = target.cotangent[None] if target else free.requires_grad_()
        used = [key for key in state if target is None or key in target.below]
        goal = [observation.update[key] for key in used]
        goal_norm = torch.stack([one.square().sum() for one in goal]).sum().sqrt()

        def objective() -> Tensor:
            features = fed_to(victim, name, {**pulled.fixed, **state}, images)
            slopes = torch.autograd.grad(
                (features * cotangent).sum(),
                [state[key] for key in used],
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            pairs = list(zip(slopes, goal, strict=True))
            inner = torch.stack([(a * b).sum() for a, b in pairs]).sum()
            norm = torch.stack([a.square().sum() for a, _ in pairs]).sum().sqrt()
            distance = 1.0 - inner / (norm * goal_norm).clamp(min=1e-30)
            if target is None:
                return distance
            off = (features[0] - target.input).square().sum() / target.input.square().sum().clamp(min=1e-30)
            return distance + off

        varied = [images] if target else [images, cotangent]
        best = images.detach().clone()
        least = float("inf")
        optimiser = torch.optim.Adam(varied, lr=self.step)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: 1.0 - done / self.iterations)
        for iteration in range(self.iterations):
            loss = objective()
            value = float(loss.detach())
            if value < least:
                best, least = images.detach().clone(), value
            loss = loss + self.total_variation * (1.0 - iteration / self.iterations) ** 2 * variation(images)
            for one, slope in zip(varied, torch.autograd.grad(loss, varied), strict=True):
                one.grad = slope
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0.0, 1.0)
            ticker.advance(1)
        return best.nan_to_num(nan=0.5), max(least, 0.0)


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
    private = Victim(model, victim.loss, victim.input_shape, victim.classes, frozenset(names))
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


@dataclass(frozen=True)
class Fed:
    """A linear layer whose input (n,) and the cotangent of it (n,) are known; `below`: what comes before."""

    name: str
    input: Tensor
    cotangent: Tensor
    below: frozenset[str]


def fed_linear(pulled: Pulled) -> Fed | None:
    """The first generated linear layer with a bias, which tells what it was fed; None without one."""
    victim, observation = pulled.victim, pulled.observation
    below: list[str] = []
    images = torch.zeros(1, *victim.input_shape)
    for seen in probe(victim, {**pulled.fixed, **observation.before}, images):
        weight, bias = f"{seen.name}.weight", f"{seen.name}.bias"
        if isinstance(seen.layer, nn.Linear) and bias in observation.update and seen.input.dim() == 2:
            delta = observation.update[bias]
            if not bool(delta.any()) or not below:
                return None
            fed = delta @ observation.update[weight] / delta.square().sum()
            return Fed(seen.name, fed, observation.before[weight].T @ delta, frozenset(below))
        below += [name for name in (weight, bias) if name in observation.update]
    return None


def fed_to(victim: Victim, name: str, state: State, images: Tensor) -> Tensor:
    """(B, n): what layer `name` is fed for `images`, differentiable."""
    caught: list[Tensor] = []

    def note(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        caught.append(given[0])

    hook = victim.model.net.get_submodule(name).register_forward_pre_hook(note)
    try:
        victim.model(state, images, training=False)
    finally:
        hook.remove()
    return caught[0]


def variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels."""
    return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()
