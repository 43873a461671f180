"""MIME-lite: clients step with the server's momentum, and never change it.

Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich, Suresh, "Breaking the centralized barrier for cross-device
federated learning", NeurIPS 2021, https://arxiv.org/abs/2008.03606, Algorithm 1 (MimeLite) with SGD and
momentum: y <- y − η(β m + (1 − β) ∇F_i(y; ξ)), m being the same in all steps of all clients; then the
server's x <- mean y_i and m <- β m + (1 − β) mean ∇f_i(x), gradients of all records of each client at the
model x that the round began with. All clients count the same, whatever they hold.

One more pass over a client's records, and twice the upload, pay for that. Not here: the variance
reduction of full MIME, and Adam as the server's optimizer. Buffers have no momentum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlab.clients.rules.contract import Aux, Batch, Carry, GradFn, LocalRule, Sent, Work, slot, slotted
from fedlab.clients.rules.server import Facts, ServerSide, ServerState
from fedlab.errors import UsageError
from fedlab.tasks import State


class GradientMomentum(ServerSide):
    """m <- β m + (1 − β) mean ∇f_i(x)."""

    uniform = True
    sends = ("momentum",)
    uplinks = ("gradient",)

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def begin(self, parameters: Tensor) -> ServerState:
        return {"momentum": torch.zeros_like(parameters)}

    def end(
        self, before: Tensor, delta: Tensor, uplinks: Mapping[str, Tensor], state: ServerState, facts: Facts
    ) -> tuple[Tensor, ServerState]:
        momentum = self.beta * state["momentum"] + (1.0 - self.beta) * uplinks["gradient"]
        return delta, state | {"momentum": momentum}


class MimeLite(LocalRule):
    """y <- y − η(β m + (1 − β) ∇F(y; ξ)), m frozen; the server's m <- β m + (1 − β) mean ∇f_i(x).

    Karimireddy et al., "Breaking the centralized barrier for cross-device federated learning", NeurIPS 2021,
    https://arxiv.org/abs/2008.03606.

    Args:
        beta: β, how much of the momentum stays; 0 is FedAvg with clients that count the same.
    """

    full_gradient = True

    def __init__(self, *, beta: Annotated[float, Field(ge=0, lt=1)] = 0.9) -> None:
        if not 0.0 <= beta < 1.0:
            raise UsageError(f"beta = {beta}; expected a number from 0 to below 1")
        self.beta = beta
        self.server = GradientMomentum(beta)

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        frozen = {name: self.beta * value for name, value in slot(server, "momentum").items()}
        return slotted("pull", frozen)

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        frozen, own = slot(carry, "pull"), 1.0 - self.beta
        return {name: own * g + frozen[name] for name, g in gradient.items()}, aux, carry

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        return Sent(parameters, {}, slotted("gradient", work.gradient))
