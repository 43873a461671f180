"""SCAFFOLD: control variates take the clients' drift out of their steps.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning", ICML 2020, https://arxiv.org/abs/1910.06378, Algorithm 1: y <- y − η(g(y) − c_i + c); then
c_i⁺ = ∇F_i(x) (option I) or c_i − c + (x − y)/(Kη) (option II), of which the client sends c_i⁺ − c_i;
the server's x <- x + (γ/S) Σ (y_i − x) and c <- c + (1/N) Σ (c_i⁺ − c_i), N all clients, S those of the
round, all counting the same whatever they hold.

Option II is computed as the mean of the client's own gradients, which is the same number for plain
SGD and stays right where a defense, momentum or weight decay changes the steps. γ is the server
optimizer's learning rate. Buffers have no control variate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
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


class ControlVariate(ServerSide):
    """c <- c + (S/N) mean(c_i⁺ − c_i)."""

    uniform = True
    in_step = True
    sends = ("control",)
    uplinks = ("control",)

    def begin(self, parameters: Tensor) -> ServerState:
        return {"control": torch.zeros_like(parameters)}

    def end(
        self, before: Tensor, delta: Tensor, uplinks: Mapping[str, Tensor], state: ServerState, facts: Facts
    ) -> tuple[Tensor, ServerState]:
        share = len(facts.weights) / facts.population
        return delta, state | {"control": state["control"] + share * uplinks["control"]}


class Scaffold(LocalRule):
    """y <- y − η(g(y) − c_i + c); clients send how their control variate c_i changed, c is the mean of all.

    Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020,
    https://arxiv.org/abs/1910.06378.

    Args:
        option: I takes a client's new control variate from its full gradient at the server's model (one
            more pass over its records), II from the mean of the gradients along its way.
    """

    server = ControlVariate()

    def __init__(self, *, option: Literal["I", "II"] = "II") -> None:
        if option not in ("I", "II"):
            raise UsageError(f'option = {option!r}; expected "I" or "II"')
        self.option = option
        self.full_gradient = option == "I"

    def memory(self, parameters: State) -> State:
        return zeros("control", parameters)

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        own, common = slot(memory, "control"), slot(server, "control")
        drift = {name: common[name] - own[name] for name in parameters}
        new = slotted("new", work.gradient) if self.full_gradient else zeros("sum", parameters)
        return slotted("drift", drift) | slotted("own", own) | new

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        drift, total = slot(carry, "drift"), slot(carry, "sum")
        if total:
            carry = carry | slotted("sum", {name: total[name] + g for name, g in gradient.items()})
        return {name: g + drift[name] for name, g in gradient.items()}, aux, carry

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        own, total = slot(carry, "own"), slot(carry, "sum")
        new = {n: value / work.steps for n, value in total.items()} if total else slot(carry, "new")
        return controlled(parameters, own, new)


def controlled(parameters: State, own: State, new: State) -> Sent:
    """The parameters; the new control variate to remember, its change to send."""
    change = {name: new[name] - own[name] for name in new}
    return Sent(parameters, slotted("control", new), slotted("control", change))
