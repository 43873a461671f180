"""FedAvg-M and FedAvg-M-VR: every local step also follows the mean direction of the round before.

Cheng, Huang, Wu, Yuan, "Momentum Benefits Non-IID Federated Learning Simply and Provably", ICLR 2024,
https://arxiv.org/abs/2306.16504. A client steps y <- y − η g_i, with

    FedAvg-M       g_i = β ∇F_i(y; ξ) + (1 − β) g
    FedAvg-M-VR    g_i = ∇F_i(y; ξ) + (1 − β)(g − ∇F_i(x⁻; ξ))

where g is the mean of all local directions of the round before, (1/(ηSK)) Σ (x − y_i), and x⁻ the model
that the round before began with (in the first round g = 0 and x⁻ = x). Both gradients of VR look at the
same batch under the same dropout masks. FedAvg-M is FedCM (Xu et al., https://arxiv.org/abs/2106.10874).

The server keeps −ηg, the mean movement per local step, which clients divide by their η again. The
paper's x <- x − γg with γ = ηK is plain averaging, to the last bit; the server optimizer's learning rate
scales it. Clients that take different numbers K_i of steps each count as if they had taken the mean
number τ (their update times τ/K_i): a mean of directions, where FedAvg's is one of updates. All count the
same, whatever they hold.

Deviations: momentum and weight decay of the clients' SGD are off in the paper; where they are not, g is
the mean movement that they led to. Buffers have no momentum; those of VR come from the pass at y.
On heterogeneous data FedAvg-M's bias is FedAvg's at a learning rate of βη, and that of VR is FedAvg's
at η for every β.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlab.clients.rules.contract import Aux, Batch, Carry, GradFn, LocalRule, Work, slot, slotted
from fedlab.clients.rules.server import Combined, Facts, ServerSide, ServerState, average
from fedlab.errors import UsageError
from fedlab.tasks import State


class Momentum(ServerSide):
    """m <- Δ/τ, the mean movement per local step; client i's update counts τ/K_i times, τ = mean K_i."""

    uniform = True
    sends = ("momentum",)

    def begin(self, parameters: Tensor) -> ServerState:
        return {"momentum": torch.zeros_like(parameters)}

    def factors(self, facts: Facts) -> Tensor:
        steps = facts.steps.clamp(min=1.0)
        return average(steps, facts.weights) / steps

    def end(
        self, before: Tensor, delta: Tensor, uplinks: Mapping[str, Tensor], state: ServerState, facts: Facts
    ) -> tuple[Tensor, ServerState]:
        steps = average(facts.steps.clamp(min=1.0), facts.weights)
        return delta, state | {"momentum": delta / steps}


class Previous(ServerSide):
    """x⁻, the model that the round before began with."""

    sends = ("previous",)

    def begin(self, parameters: Tensor) -> ServerState:
        return {"previous": parameters}

    def end(
        self, before: Tensor, delta: Tensor, uplinks: Mapping[str, Tensor], state: ServerState, facts: Facts
    ) -> tuple[Tensor, ServerState]:
        return delta, state | {"previous": before}


class FedAvgM(LocalRule):
    """y <- y − η(β ∇F(y; ξ) + (1 − β) g), with g the mean local direction of the round before.

    Cheng et al., "Momentum Benefits Non-IID Federated Learning Simply and Provably", ICLR 2024,
    https://arxiv.org/abs/2306.16504.

    Args:
        beta: β, the share of a client's own gradient; 1 is FedAvg.
    """

    server = Momentum()

    def __init__(self, *, beta: Annotated[float, Field(gt=0, le=1)] = 0.1) -> None:
        self.beta = share(beta)

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        return slotted("pull", pull(server, work, 1.0 - self.beta)) if self.beta < 1.0 else {}

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        if self.beta < 1.0:
            common = slot(carry, "pull")
            gradient = {name: self.beta * g + common[name] for name, g in gradient.items()}
        return gradient, aux, carry


class FedAvgMVR(LocalRule):
    """y <- y − η(∇F(y; ξ) + (1 − β)(g − ∇F(x⁻; ξ))), with x⁻ the model of the round before, g its direction.

    Cheng et al., "Momentum Benefits Non-IID Federated Learning Simply and Provably", ICLR 2024,
    https://arxiv.org/abs/2306.16504.

    Args:
        beta: β, the share of a client's own gradient that nothing corrects; 1 is FedAvg.
    """

    server = Combined(Momentum(), Previous())

    def __init__(self, *, beta: Annotated[float, Field(gt=0, le=1)] = 0.1) -> None:
        self.beta = share(beta)
        self.gradients = 2 if self.beta < 1.0 else 1

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        if self.beta == 1.0:
            return {}
        previous = slotted("previous", slot(server, "previous"))
        return slotted("pull", pull(server, work, 1.0 - self.beta)) | previous

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        if self.beta < 1.0:
            common, (old, _) = slot(carry, "pull"), grad_fn(slot(carry, "previous"), batch)
            rest = 1.0 - self.beta
            gradient = {name: g + common[name] - rest * old[name] for name, g in gradient.items()}
        return gradient, aux, carry


def share(beta: float) -> float:
    """β, if it is one.

    Raises:
        UsageError: it is not in (0, 1].
    """
    if not 0.0 < beta <= 1.0:
        raise UsageError(f"beta = {beta}; expected a number above 0, at most 1 (1 is no momentum)")
    return beta


def pull(server: State, work: Work, part: float) -> State:
    """`part` of g, in units of a gradient."""
    scale = -part / work.learning_rate
    return {name: scale * value for name, value in slot(server, "momentum").items()}
