"""SCAFFOLD-M and SCAFFOLD-M-VR: control variates and momentum in one step.

Cheng, Huang, Wu, Yuan, "Momentum Benefits Non-IID Federated Learning Simply and Provably", ICLR 2024,
https://arxiv.org/abs/2306.16504. A client steps y <- y − η g_i, with

    SCAFFOLD-M       g_i = β(∇F_i(y; ξ) − c_i + c) + (1 − β) g
    SCAFFOLD-M-VR    g_i = ∇F_i(y; ξ) − β(c_i − c) + (1 − β)(g − ∇F_i(x⁻; ξ))

g and x⁻ are those of `momentum.py`, whose remarks hold here too. c_i⁺ is the mean of the client's raw
gradients at its own models y, of which it sends c_i⁺ − c_i; c <- c + (1/N) Σ (c_i⁺ − c_i), N all clients.
β = 1 is SCAFFOLD's option II. Buffers have neither.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

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
from fedlab.clients.rules.momentum import Momentum, Previous, pull, share
from fedlab.clients.rules.scaffold import ControlVariate, controlled
from fedlab.clients.rules.server import Combined
from fedlab.tasks import State


class ScaffoldM(LocalRule):
    """y <- y − η(β(∇F(y; ξ) − c_i + c) + (1 − β) g), c_i the client's mean gradient, g the last direction.

    Cheng et al., "Momentum Benefits Non-IID Federated Learning Simply and Provably", ICLR 2024,
    https://arxiv.org/abs/2306.16504.

    Args:
        beta: β, the share of a client's own corrected gradient; 1 is SCAFFOLD.
    """

    server = Combined(Momentum(), ControlVariate())

    def __init__(self, *, beta: Annotated[float, Field(gt=0, le=1)] = 0.1) -> None:
        self.beta = share(beta)

    def memory(self, parameters: State) -> State:
        return zeros("control", parameters)

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        return _start(self.beta, parameters, memory, server, work)

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        shift = slot(carry, "shift")
        step = {name: self.beta * g + shift[name] for name, g in gradient.items()}
        return step, aux, _summed(carry, gradient)

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        return _finish(parameters, work, carry)


class ScaffoldMVR(LocalRule):
    """y <- y − η(∇F(y; ξ) − β(c_i − c) + (1 − β)(g − ∇F(x⁻; ξ))), x⁻ the model of the round before.

    Cheng et al., "Momentum Benefits Non-IID Federated Learning Simply and Provably", ICLR 2024,
    https://arxiv.org/abs/2306.16504.

    Args:
        beta: β, the share of a client's own gradient that no momentum corrects; 1 is SCAFFOLD.
    """

    server = Combined(Momentum(), Previous(), ControlVariate())

    def __init__(self, *, beta: Annotated[float, Field(gt=0, le=1)] = 0.1) -> None:
        self.beta = share(beta)
        self.gradients = 2 if self.beta < 1.0 else 1

    def memory(self, parameters: State) -> State:
        return zeros("control", parameters)

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        previous = slotted("previous", slot(server, "previous")) if self.beta < 1.0 else {}
        return _start(self.beta, parameters, memory, server, work) | previous

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        shift, rest = slot(carry, "shift"), 1.0 - self.beta
        step = {name: g + shift[name] for name, g in gradient.items()}
        if rest:
            old, _ = grad_fn(slot(carry, "previous"), batch)
            step = {name: value - rest * old[name] for name, value in step.items()}
        return step, aux, _summed(carry, gradient)

    def finish(self, anchor: State, parameters: State, work: Work, carry: Carry) -> Sent:
        return _finish(parameters, work, carry)


def _start(beta: float, parameters: State, memory: State, server: State, work: Work) -> Carry:
    """What every step adds, β(c − c_i) + (1 − β) g; the sum of the raw gradients."""
    own, common, momentum = slot(memory, "control"), slot(server, "control"), pull(server, work, 1.0 - beta)
    shift = {name: beta * (common[name] - own[name]) + momentum[name] for name in parameters}
    return slotted("shift", shift) | slotted("own", own) | zeros("sum", parameters)


def _summed(carry: Carry, gradient: State) -> Carry:
    total = slot(carry, "sum")
    return carry | slotted("sum", {name: total[name] + g for name, g in gradient.items()})


def _finish(parameters: State, work: Work, carry: Carry) -> Sent:
    mean = {name: value / work.steps for name, value in slot(carry, "sum").items()}
    return controlled(parameters, slot(carry, "own"), mean)
