"""FedDyn: each client's objective is bent until its optimum is the federation's.

Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic
Regularization", ICLR 2021, https://arxiv.org/abs/2111.04263, Algorithm 1: client i minimises
f_i(y) − ⟨λ_i, y⟩ + (α/2)‖y − x‖², here by SGD: y <- y − η(∇f_i(y; ξ) − λ_i + α(y − x)); then
λ_i <- λ_i − α(y_i − x). The server's h <- h − (α/N) Σ (y_i − x) and x <- (1/S) Σ y_i − h/α, N all clients, S
those of the round, all counting the same whatever they hold.

λ_i stays with its client and h with the server: nothing travels but the model. The paper solves the
clients' problem exactly; a few steps do so approximately. Clients' updates grow easily: a small
learning rate, or clipping (as in the authors' code), keeps them in bounds. With another server
learning rate than 1 the model moves by that part of the step. Buffers are averaged by records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlab.clients.rules.contract import (
    Aux,
    Batch,
    Carry,
    GradFn,
    LocalRule,
    Sent,
    Work,
    slot,
    slotted,
    zeros,
)
from fedlab.clients.rules.server import Facts, ServerSide, ServerState
from fedlab.errors import UsageError
from fedlab.tasks import State


class Drift(ServerSide):
    """h <- h − α (S/N) Δ; the model moves by Δ − h/α."""

    uniform = True
    in_step = True

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def begin(self, parameters: Tensor) -> ServerState:
        return {"drift": torch.zeros_like(parameters)}

    def end(
        self, before: Tensor, delta: Tensor, uplinks: Mapping[str, Tensor], state: ServerState, facts: Facts
    ) -> tuple[Tensor, ServerState]:
        share = len(facts.weights) / facts.population
        drift = state["drift"] - self.alpha * share * delta
        return delta - drift / self.alpha, state | {"drift": drift}


class FedDyn(LocalRule):
    """y <- y − η(∇F(y; ξ) − λ_i + α(y − x)), then λ_i <- λ_i − α(y − x); the server takes the drift h out.

    Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021,
    https://arxiv.org/abs/2111.04263.

    Args:
        alpha: α, how strongly clients are held, and how fast their objectives are bent.
    """

    def __init__(self, *, alpha: Annotated[float, Field(gt=0)] = 0.1) -> None:
        if not 0.0 < alpha < float("inf"):
            raise UsageError(f"alpha = {alpha}; expected a finite number > 0")
        self.alpha = alpha
        self.server = Drift(alpha)

    def memory(self, parameters: State) -> State:
        return zeros("lambda", parameters)

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        return slotted("lambda", slot(memory, "lambda")) | slotted("anchor", parameters)

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        bent, anchor = slot(carry, "lambda"), slot(carry, "anchor")
        direction = {n: g - bent[n] + self.alpha * (parameters[n] - anchor[n]) for n, g in gradient.items()}
        return direction, aux, carry

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        bent = slot(carry, "lambda")
        new = {name: bent[name] - self.alpha * (parameters[name] - anchor[name]) for name in bent}
        return Sent(parameters, slotted("lambda", new), {})
