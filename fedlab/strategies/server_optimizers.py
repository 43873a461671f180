"""Server optimizers: what the server does with the combined update.

SGD with momentum: FedAvgM of Hsu, Qi, Brown (https://arxiv.org/abs/1909.06335), v <- βv + Δ,
x <- x + γv. With β = 0 and γ = 1 this is FedAvg's plain averaging.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fedlab.errors import UsageError

OptimizerState = dict[str, Any]


class ServerOptimizer(Protocol):
    """Turns the combined delta into the step that the model takes."""

    def step(self, delta: Tensor, state: OptimizerState) -> tuple[Tensor, OptimizerState]:
        """(d,) float64 in, (d,) float64 to be added to the parameters out."""


@dataclass(frozen=True)
class SGD:
    """x <- x + learning_rate * v, v <- momentum * v + delta."""

    learning_rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0.0:
            raise UsageError(f"server learning_rate must be > 0, got {self.learning_rate}")
        if not 0.0 <= self.momentum < 1.0:
            raise UsageError(f"server momentum must lie in [0, 1), got {self.momentum}")

    def step(self, delta: Tensor, state: OptimizerState) -> tuple[Tensor, OptimizerState]:
        velocity = delta
        if self.momentum:
            velocity = delta + self.momentum * state["velocity"] if "velocity" in state else delta
            state = {"velocity": velocity}
        return self.learning_rate * velocity, state
