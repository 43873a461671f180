"""A client's local training as one differentiable function: what its records would have sent.

D. I. Dimitrov, M. Balunović, N. Konstantinov and M. Vechev, "Data Leakage in Federated Averaging", TMLR 2022,
https://arxiv.org/abs/2206.12395: the server runs the client's steps on its own guess of the records, and
compares what comes out with what it received. With g the gradient of the mean loss over one batch, a step is
torch.optim.SGD's:

    v <- momentum v + (g + weight_decay w);    w <- w - learning_rate v.

Deviations: momentum, weight decay, dropout masks, and batch norm, whose running statistics move with every
step. A client's own layers detach what they add to them; here they stay differentiable, because what the
client's buffers became is something to be matched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from fedlab.audit.victim import Victim
from fedlab.tasks import FunctionalModel, State
from fedlab.tasks.layers import BatchNorm
from fedlab_attacks.optimise.capture import Simulated, capturing
from fedlab_attacks.optimise.order import ORDER, shares
from fedlab_attacks.optimise.problem import LocalPlan, Problem, Statistics
from fedlab_attacks.optimise.statistics import moments
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.optimise.views import views


def sizes_of(records: int, batch: int, steps: int) -> tuple[int, ...]:
    """Records in each of `steps` steps over shuffled epochs; the last batch of an epoch may be short.

    >>> sizes_of(5, 2, 4)
    (2, 2, 1, 2)
    """
    size = min(batch or records, records)
    epoch = [min(size, records - start) for start in range(0, records, size)]
    return tuple((epoch * ceil(steps / len(epoch)))[:steps])


def unrolled(
    problem: Problem, variables: Variables, plan: LocalPlan, *, statistics: bool = False
) -> Simulated:
    """What clients that train by `plan` would send back, all rows in one graph.

    The update is the mean step (w_0 - w_k) / (learning_rate k), as `Problem.target`. There is an image and a
    label per record where the problem has an order or the candidates have one (`noise["order"]`: logits, see
    `order.shares`), else one per use; a mask per use.
    """
    images = variables.images
    targets = problem.labels if variables.labels is None else variables.labels.softmax(-1)
    if len(problem.order):
        at = torch.arange(len(images), device=images.device)[:, None]
        images, targets = images[at, problem.order], targets[at, problem.order]

    noise = dict(variables.noise)
    weights = {ORDER: shares(noise.pop(ORDER), plan.sizes)} if ORDER in noise else {}

    def one(
        start: State, buffers: State, x: Tensor, y: Tensor, masks: State, noise: State, weights: State
    ) -> Simulated:
        return client(
            problem.victim,
            start,
            buffers,
            x,
            y,
            masks,
            plan,
            training=problem.training,
            noise=noise,
            weights=weights.get(ORDER),
            statistics=statistics,
        )

    rows = problem.parameters, problem.buffers, images, targets, variables.masks, noise, weights
    return Simulated(*vmap(one)(*rows))


def client(
    victim: Victim,
    start: State,
    buffers: State,
    images: Tensor,
    targets: Tensor,
    masks: State,
    plan: LocalPlan,
    *,
    training: bool,
    noise: State | None = None,
    weights: Tensor | None = None,
    statistics: bool = False,
) -> Simulated:
    """What one client sends, without a leading axis of victims.

    Pure: it can be mapped over victims, and differentiated with respect to images, soft targets and masks.

    Args:
        images: (U, C, H, W), in the order of use. targets: (U,) labels or (U, classes) probabilities.
        masks: keep-masks by dropout layer, (U, ...) each; empty for no dropout.
        training: batch statistics in batch norm.
        noise: of stochastic layers, (U, ...) each.
        weights: (steps, R) of the records in each step's loss, each summing to 1; then every step sees all of
            the R images (with their R masks), and so does its batch norm.
    """
    model = victim.model

    def loss(
        learned: State, moving: State, now: slice, share: Tensor | None
    ) -> tuple[Tensor, tuple[State, Statistics]]:
        keep = {name: mask[now] for name, mask in masks.items()}
        drawn = {name: value[now] for name, value in (noise or {}).items()}
        x, y, keep, drawn = views(victim, images[now], targets[now], keep, drawn)
        with capturing(victim, statistics) as seen, following(model, moving, training) as after:
            outputs, _ = model(
                {**start, **learned, **moving},
                x,
                training=training,
                masks=keep or None,
                noise=drawn or None,
            )
        losses = victim.loss(outputs, y)
        if share is None:
            return losses.mean(), (after, seen)
        return losses.view(len(share), -1).mean(1) @ share, (after, seen)

    learned, velocity = {name: start[name] for name in victim.shared}, dict[str, Tensor]()
    seen: Statistics = {}
    place = 0
    for step, size in enumerate(plan.sizes):
        now = slice(place, place + size) if weights is None else slice(None)
        share = None if weights is None else weights[step]
        slope, (buffers, seen) = grad(loss, has_aux=True)(learned, buffers, now, share)
        if plan.weight_decay:
            slope = {n: g.add(learned[n], alpha=plan.weight_decay) for n, g in slope.items()}
        if velocity:
            slope = {n: g.add(velocity[n], alpha=plan.momentum) for n, g in slope.items()}
        velocity = slope if plan.momentum else {}
        learned = {n: value.sub(slope[n], alpha=plan.learning_rate) for n, value in learned.items()}
        place += size
    scale = plan.learning_rate * len(plan.sizes)
    return Simulated({n: (start[n] - value) / scale for n, value in learned.items()}, seen, buffers)


@contextmanager
def following(model: FunctionalModel, buffers: State, training: bool) -> Iterator[State]:
    """Within, a pass through the network leaves the running statistics as they are after it, differentiable.

    In training mode they move towards the batch's mean and its unbiased variance, as the layers' own do.
    """
    after = dict(buffers)
    hooks = []
    for name, module in model.net.named_modules() if training else ():
        if isinstance(module, BatchNorm):

            def note(
                layer: nn.Module, args: tuple[Tensor, ...], name: str = name, share: float = module.momentum
            ) -> None:
                mean, variance = moments(layer, args[0])
                count = args[0].numel() // len(mean)
                for kind, value in (("mean", mean), ("var", variance * (count / max(count - 1, 1)))):
                    key = f"{name}.running_{kind}"
                    after[key] = torch.lerp(buffers[key], value, share)

            hooks.append(module.register_forward_pre_hook(note))
    try:
        yield after
    finally:
        for hook in hooks:
            hook.remove()
