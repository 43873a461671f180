"""What clients with given records would send back: the public network, run as the client ran it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from fedlab.tasks import State
from fedlab_attacks.optimise.capture import Simulated, capturing
from fedlab_attacks.optimise.local_training import unrolled
from fedlab_attacks.optimise.problem import Problem, Statistics
from fedlab_attacks.optimise.variables import Variables
from fedlab_attacks.optimise.views import views


def simulate(problem: Problem, variables: Variables, *, statistics: bool = False) -> Simulated:
    """Updates that the candidates would have caused, all rows in one graph.

    Args:
        statistics: whether norm layers' inputs are wanted, too.
    """
    if problem.client is not None:
        return unrolled(problem, variables, problem.client, statistics=statistics)
    victim = problem.victim
    model, shared = victim.model, victim.shared

    def one(
        parameters: State, buffers: State, images: Tensor, targets: Tensor, masks: State, noise: State
    ) -> tuple[State, tuple[Statistics, State]]:
        x, y, keep, drawn = views(victim, images, targets, masks, noise)

        def loss(learned: State) -> tuple[Tensor, tuple[Statistics, State]]:
            with capturing(victim, statistics) as seen:
                outputs, after = model(
                    {**parameters, **learned, **buffers},
                    x,
                    training=problem.training,
                    masks=keep or None,
                    noise=drawn or None,
                )
            return victim.loss(outputs, y).mean(), (seen, after)

        found: tuple[State, tuple[Statistics, State]] = torch.func.grad(loss, has_aux=True)(
            {name: parameters[name] for name in shared}
        )
        return found

    targets = problem.labels if variables.labels is None else variables.labels.softmax(-1)
    update, (seen, after) = vmap(one)(
        problem.parameters, problem.buffers, variables.images, targets, variables.masks, variables.noise
    )
    return Simulated(update, seen, after)
