"""HyperFL's hypernetwork hands over its client's private parameters, and then their gradient.

P. Guo et al., "A New Federated Learning Framework Against Gradient Inversion Attacks", AAAI 2025,
https://arxiv.org/abs/2412.07187, shares only a hypernetwork φ; the embedding, the generated parameters θ and
the classifier stay with the client. But φ ends in linear heads with biases, θ = H a + c, with one private
hidden code a (h,) in front of all of them, and how these change in a step gives a, θ and the gradient
g = ∂L/∂θ up to a factor (`private_network`). Deviations: the idea is ours; that paper's own attack matches
the gradient of φ with a random embedding and classifier, which leaves it at chance.

So the client's network is attacked as any other whose classifier is unknown: first by closed forms that ask
for neither classifier nor label (`PatchEmbedding`, `LayerPeel`); where they do not apply, by matching. A
generated linear layer with a bias still gives its own input and output cotangent (one record), and then an
image is sought whose features, and whose gradient under that cotangent, are the known ones. Without one, or
for several records, the cotangent of the classifier's input is sought together with the images.

Several steps are read as their mean; `details["beyond rank one"]` says how far the update is from one step's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import NotApplicable, UsageError
from fedlab.tasks import State
from fedlab_attacks.exact.algebra import COARSE
from fedlab_attacks.exact.each import each
from fedlab_attacks.exact.layer_peel import LayerPeel
from fedlab_attacks.exact.patch_embedding import PatchEmbedding
from fedlab_attacks.exact.private_network import Pulled, pulled_back
from fedlab_attacks.optimise.inversion import own_generator
from fedlab_attacks.reading import Ticker, batch_size, probe

METHOD = "hypernetwork pull-back"
LARGEST_BATCH = 64
GREY, SPREAD = 0.3, 0.05
"""Where the matching starts: noise hardly above a dark grey, because pooling has many false minima."""


class HypernetworkPullback(Attack):
    """Reads a client's private parameters off its hypernetwork's update, and inverts their gradient.

    Args:
        iterations: of the matching, where closed forms do not apply.
        restarts: starts per client; each has a trial of a tenth of the iterations, and the one that ends
            with the least mismatch is descended from in full.
        step: Adam's first step, in pixels.
        total_variation: weight of the mean absolute difference of neighbouring pixels at first; it fades.

    Raises:
        UsageError: a parameter is out of range.
    """

    needs: ClassVar = frozenset({"batch_size"})
    paper: ClassVar[str] = "against Guo et al., HyperFL, AAAI 2025 (ours)"
    exact: ClassVar[bool] = True
    personal: ClassVar[bool] = True

    def __init__(
        self,
        *,
        iterations: int = 500,
        restarts: int = 3,
        step: float = 0.1,
        total_variation: float = 0.3,
    ) -> None:
        for name, count in (("iterations", iterations), ("restarts", restarts)):
            if count < 1:
                raise UsageError(f"HypernetworkPullback: {name} = {count}; expected at least 1")
        if not step > 0.0 or not total_variation >= 0.0:
            raise UsageError(
                f"HypernetworkPullback: step = {step}, total_variation = {total_variation};"
                " expected above 0, and at least 0"
            )
        self.iterations, self.restarts = iterations, restarts
        self.trial = max(1, iterations // 10) if restarts > 1 else 0
        self.step, self.total_variation = step, total_variation

    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> list[Reconstruction]:
        budget = self.restarts * self.trial + self.iterations
        ticker = Ticker(report, len(observations) * budget)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return each(
            observations,
            lambda one: self._invert(pulled_back(one, victim), threat, own_generator(seed, one), ticker),
            method=METHOD,
            report=lambda done, total: ticker.advance(done * budget - ticker.done),
        )

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
        victim = pulled.victim
        name = target.name if target else pulled.classifier
        inputs = victim.model.net.get_submodule(name).get_parameter("weight").shape[1]
        starts = []
        for _ in range(self.restarts):
            noise = torch.rand(batch, *victim.input_shape, generator=generator)
            free = torch.randn(batch, inputs, generator=generator) / inputs**0.5
            starts.append([GREY + SPREAD * noise] if target else [GREY + SPREAD * noise, free])
        mismatch = mismatched(pulled, target)
        if self.restarts > 1:
            tried = [self._descend(mismatch, start, self.trial, ticker)[1] for start in starts]
            starts = [starts[tried.index(min(tried))]]
        return self._descend(mismatch, starts[0], self.iterations, ticker)

    def _descend(
        self, mismatch: Callable[..., Tensor], start: Sequence[Tensor], iterations: int, ticker: Ticker
    ) -> tuple[Tensor, float]:
        """The images met with the least mismatch on the way down from `start`, and that mismatch."""
        varied = [one.clone().requires_grad_() for one in start]
        images = varied[0]
        best, least = images.detach().clone(), float("inf")
        optimiser = torch.optim.Adam(varied, lr=self.step)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: 1.0 - done / iterations)
        for iteration in range(iterations):
            loss = mismatch(*varied)
            value = float(loss.detach())
            if value < least:
                best, least = images.detach().clone(), value
            loss = loss + self.total_variation * (1.0 - iteration / iterations) ** 2 * variation(images)
            for one, slope in zip(varied, torch.autograd.grad(loss, varied), strict=True):
                one.grad = slope
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0.0, 1.0)
            ticker.advance(1)
        return best.nan_to_num(nan=0.5), max(least, 0.0)


@dataclass(frozen=True)
class Fed:
    """A linear layer whose input (n,) and the cotangent of it (n,) are known; `below`: what comes before."""

    name: str
    input: Tensor
    cotangent: Tensor
    below: frozenset[str]


def mismatched(pulled: Pulled, target: Fed | None) -> Callable[..., Tensor]:
    """How far images (B, C, H, W), and the cotangent (B, n) where it is free, are from what was observed."""
    victim, observation = pulled.victim, pulled.observation
    state = {name: value.clone().requires_grad_() for name, value in observation.before.items()}
    name = target.name if target else pulled.classifier
    used = [key for key in state if target is None or key in target.below]
    goal = [observation.update[key] for key in used]
    goal_norm = torch.stack([one.square().sum() for one in goal]).sum().sqrt()

    def mismatch(images: Tensor, *free: Tensor) -> Tensor:
        features = fed_to(victim, name, {**pulled.fixed, **state}, images)
        cotangent = target.cotangent[None] if target else free[0]
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

    return mismatch


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
