"""FedProx: a proximal term holds clients near the model that they started from.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys
2020, https://arxiv.org/abs/1812.06127. Each client minimises F_k(w) + (μ/2)‖w − x‖² (equation 2),
here by SGD: w <- w − η(∇F_k(w; b) + μ(w − x)), where x is the model as the round began.

The other half of the paper, work that varies by client and round, is `clients.stragglers` of a
scenario. μ = 0 is FedAvg, bit for bit. Buffers have no proximal term.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedlab.clients.config import ClientConfig
from fedlab.clients.rules.contract import Aux, Batch, Carry, GradFn, LocalRule, Work, slot, slotted
from fedlab.errors import UsageError
from fedlab.tasks import State


class FedProx(LocalRule):
    """w <- w − η(∇F(w; b) + μ(w − x)), with x the model that the server sent.

    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, https://arxiv.org/abs/1812.06127.

    Args:
        mu: μ, how strongly clients are held; 0 is FedAvg.
    """

    def __init__(self, *, mu: Annotated[float, Field(ge=0)] = 1.0) -> None:
        if not 0.0 <= mu < float("inf"):
            raise UsageError(f"mu = {mu}; expected a finite number >= 0")
        self.mu = mu

    def check(self, config: ClientConfig) -> None:
        if not config.learning_rate * self.mu < 2.0:
            raise UsageError(
                f"fedprox with mu = {self.mu} and clients.learning_rate = {config.learning_rate}: their"
                " product must be less than 2, or each step moves a client further from the model that"
                " holds it; lower one"
            )

    def start(self, parameters: State, memory: State, server: State, work: Work) -> Carry:
        return slotted("anchor", parameters) if self.mu else {}

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        gradient, aux = grad_fn(parameters, batch)
        if self.mu:
            anchor = slot(carry, "anchor")
            gradient = {n: g + self.mu * (parameters[n] - anchor[n]) for n, g in gradient.items()}
        return gradient, aux, carry
