"""FedNova: clients count by their records, not by how many steps they took.

Wang, Liu, Liang, Joshi, Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
Optimization", NeurIPS 2020, https://arxiv.org/abs/2007.07481: x <- x + τ Σ p_i Δ_i/‖a_i‖₁ with
τ = Σ p_i ‖a_i‖₁ and p_i the share of records. a_i says how much of each gradient is in the client's update
Δ_i; of K steps

    plain SGD                 ‖a‖₁ = K
    SGD with momentum ρ       ‖a‖₁ = (K − ρ(1 − ρᴷ)/(1 − ρ))/(1 − ρ)
    proximal SGD, term μ      ‖a‖₁ = (1 − (1 − ημ)ᴷ)/(ημ)

Where all do equal work this is FedAvg, to the last bit. The paper has no form for a proximal term
together with momentum: that is refused. Weight decay counts as part of the gradient. Buffers are
averaged by records, as in FedAvg.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedlab.clients.config import ClientConfig
from fedlab.clients.rules.contract import WrappedRule
from fedlab.clients.rules.fedprox import FedProx
from fedlab.clients.rules.server import Facts, ServerSide, average
from fedlab.errors import UsageError


class Normalised(ServerSide):
    """Δ_i <- Δ_i τ/‖a_i‖₁, with τ the mean of ‖a_i‖₁."""

    def __init__(self, mu: float) -> None:
        self.mu = mu

    def factors(self, facts: Facts) -> Tensor:
        config = facts.config
        work = gradients_in(facts.steps.clamp(min=1.0), config.momentum, config.learning_rate * self.mu)
        return average(work, facts.weights) / work


class FedNova(WrappedRule):
    """x <- x + τ Σ p_i Δ_i/‖a_i‖₁, with ‖a_i‖₁ the gradients in client i's update and τ = Σ p_i ‖a_i‖₁.

    Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
    NeurIPS 2020, https://arxiv.org/abs/2007.07481.

    Args:
        mu: μ of a proximal term in the clients (FedProx); 0 for none. μ × learning rate < 1.
    """

    def __init__(self, *, mu: Annotated[float, Field(ge=0)] = 0.0) -> None:
        super().__init__(FedProx(mu=mu))
        self.mu = mu
        self.server = Normalised(mu)

    def check(self, config: ClientConfig) -> None:
        if self.mu and config.momentum:
            raise UsageError(
                f"fednova with mu = {self.mu} and clients.momentum = {config.momentum}: how much each"
                " gradient counts then is known for one of them only; set one of them to 0"
            )
        if not config.learning_rate * self.mu < 1.0:
            raise UsageError(
                f"fednova with mu = {self.mu} and clients.learning_rate = {config.learning_rate}: their"
                " product must be less than 1, or steps overshoot the model that they are held to; lower one"
            )


def gradients_in(steps: Tensor, momentum: float = 0.0, held: float = 0.0) -> Tensor:
    """‖a‖₁ (n,) of clients that took `steps` (n,).

    Args:
        momentum: ρ in [0, 1).
        held: ημ in [0, 1), of a proximal term; not together with momentum.
    """
    if momentum:
        rest = 1.0 - momentum
        return (steps - momentum * (1.0 - momentum**steps) / rest) / rest
    if held:
        return -torch.expm1(steps * torch.log1p(torch.tensor(-held, dtype=steps.dtype))) / held
    return steps
