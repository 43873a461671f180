"""Server optimizers: what the server makes of the combined update.

The clients' combined update Δ is the server's pseudo-gradient, with its sign turned. Plain averaging adds
it to the model; momentum and adaptive steps remember earlier ones: Algorithm 2 of Reddi, Charles, Zaheer,
Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021,
https://arxiv.org/abs/2003.00295, and FedAvgM of Hsu, Qi, Brown, https://arxiv.org/abs/1909.06335.

Where others differ, as of flwr 1.41 and torch 2.13:

* No bias correction, as in the paper. `torch.optim.Adam` divides m by 1 − β₁ᵗ and v by 1 − β₂ᵗ;
  flwr's FedAdam does likewise with the power t + 1.
* v starts at τ², the least that the paper allows; flwr and torch start it at 0 (torch's Adagrad at a
  parameter's choice), which makes their first steps longer.
* τ stands outside of the root, as ε in torch's Adam.
* Only learned parameters take an optimizer's step; flwr moves batch-norm statistics and counters with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor

from fedlab.errors import PluginError, UsageError

OptimizerState = dict[str, Any]
AboveZero = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class ServerOptimizer(Protocol):
    """Turns the combined delta into the step that the model takes."""

    def step(self, delta: Tensor, state: OptimizerState) -> tuple[Tensor, OptimizerState]:
        """(d,) float64 in, (d,) float64 to be added to the parameters out; `state` is empty at first."""


def stepped(
    optimizer: ServerOptimizer, delta: Tensor, state: OptimizerState
) -> tuple[Tensor, OptimizerState]:
    """The step, in float64; an answer that is no finite vector of floating-point numbers (d,) is refused.

    Raises:
        PluginError: the optimizer failed, or returned something else.
    """
    name = type(optimizer).__name__
    try:
        answer: Any = optimizer.step(delta, state)
    except PluginError:
        raise
    except Exception as error:  # a plugin may raise anything
        raise PluginError(f"server optimizer {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], dict):
        raise PluginError(
            f"server optimizer {name} returned a {type(answer).__name__}; expected a pair (step, state), the"
            " state a dict"
        )
    step, new_state = answer
    if not isinstance(step, Tensor) or step.shape != delta.shape:
        got = tuple(step.shape) if isinstance(step, Tensor) else type(step).__name__
        raise PluginError(
            f"server optimizer {name} returned {got}; expected a tensor of shape {tuple(delta.shape)}"
        )
    if not step.dtype.is_floating_point:
        raise PluginError(f"server optimizer {name} returned {step.dtype}; expected torch.float64")
    if not bool(torch.isfinite(step).all()):
        raise PluginError(f"server optimizer {name} returned non-finite numbers for a finite update")
    return step.double(), new_state


@dataclass(frozen=True)
class Momentum:
    """x <- x + η v with v <- β v + Δ: FedAvgM.

    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019, https://arxiv.org/abs/1909.06335.

    Args:
        learning_rate: η, the server's.
        beta: β, how much of the last step goes on; 0 is plain averaging.
    """

    learning_rate: AboveZero = 1.0
    beta: Decay = 0.9

    def __post_init__(self) -> None:
        _above_zero(learning_rate=self.learning_rate)
        _decays(beta=self.beta)

    def step(self, delta: Tensor, state: OptimizerState) -> tuple[Tensor, OptimizerState]:
        velocity = delta + self.beta * state["velocity"] if "velocity" in state else delta
        return self.learning_rate * velocity, {"velocity": velocity}


@dataclass(frozen=True)
class SGD:
    """x <- x + η v with v <- β v + Δ; as it stands, with η = 1 and β = 0, it is FedAvg's plain averaging.

    McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017, https://arxiv.org/abs/1602.05629.

    Args:
        learning_rate: η, the server's.
        momentum: β, how much of the last step goes on.
    """

    learning_rate: AboveZero = 1.0
    momentum: Decay = 0.0

    def __post_init__(self) -> None:
        _above_zero(learning_rate=self.learning_rate)
        _decays(momentum=self.momentum)

    def step(self, delta: Tensor, state: OptimizerState) -> tuple[Tensor, OptimizerState]:
        if self.momentum:
            return Momentum(self.learning_rate, self.momentum).step(delta, state)
        return self.learning_rate * delta, {}


@dataclass(frozen=True)
class Adagrad:
    """x <- x + η m / (√v + τ) with m <- β₁ m + (1 − β₁) Δ and v <- v + Δ², v from τ² on.

    Reddi et al., "Adaptive Federated Optimization", ICLR 2021, https://arxiv.org/abs/2003.00295.

    Args:
        learning_rate: η, the server's.
        beta1: β₁, the memory of m; the paper's FedAdagrad has none.
        tau: τ, how adaptive it is: the smaller, the more every coordinate moves alike.
    """

    learning_rate: AboveZero = 0.1
    beta1: Decay = 0.0
    tau: AboveZero = 1e-3

    def __post_init__(self) -> None:
        _above_zero(learning_rate=self.learning_rate, tau=self.tau)
        _decays(beta1=self.beta1)

    def step(self, delta: Tensor, state: OptimizerState) -> tuple[Tensor, OptimizerState]:
        m, v = _moments(delta, state, self.tau)
        m, v = self.beta1 * m + (1 - self.beta1) * delta, v + delta**2
        return self.learning_rate * m / (v.sqrt() + self.tau), {"m": m, "v": v}


@dataclass(frozen=True)
class Adam:
    """x <- x + η m / (√v + τ) with m <- β₁ m + (1 − β₁) Δ and v <- β₂ v + (1 − β₂) Δ², v from τ² on.

    Reddi et al., "Adaptive Federated Optimization", ICLR 2021, https://arxiv.org/abs/2003.00295.

    Args:
        learning_rate: η, the server's.
        beta1: β₁, the memory of m.
        beta2: β₂, the memory of v.
        tau: τ, how adaptive it is: the smaller, the more every coordinate moves alike.
    """

    learning_rate: AboveZero = 0.1
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    tau: AboveZero = 1e-3

    def __post_init__(self) -> None:
        _above_zero(learning_rate=self.learning_rate, tau=self.tau)
        _decays(beta1=self.beta1, beta2=self.beta2)

    def step(self, delta: Tensor, state: OptimizerState) -> tuple[Tensor, OptimizerState]:
        m, v = _moments(delta, state, self.tau)
        m, v = self.beta1 * m + (1 - self.beta1) * delta, self.beta2 * v + (1 - self.beta2) * delta**2
        return self.learning_rate * m / (v.sqrt() + self.tau), {"m": m, "v": v}


@dataclass(frozen=True)
class Yogi:
    """x <- x + η m / (√v + τ), m <- β₁ m + (1 − β₁) Δ, v <- v − (1 − β₂) Δ² sign(v − Δ²), v from τ² on.

    Reddi et al., "Adaptive Federated Optimization", ICLR 2021, https://arxiv.org/abs/2003.00295.

    Args:
        learning_rate: η, the server's.
        beta1: β₁, the memory of m.
        beta2: β₂, how slowly v moves.
        tau: τ, how adaptive it is: the smaller, the more every coordinate moves alike.
    """

    learning_rate: AboveZero = 0.01
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    tau: AboveZero = 1e-3

    def __post_init__(self) -> None:
        _above_zero(learning_rate=self.learning_rate, tau=self.tau)
        _decays(beta1=self.beta1, beta2=self.beta2)

    def step(self, delta: Tensor, state: OptimizerState) -> tuple[Tensor, OptimizerState]:
        m, v = _moments(delta, state, self.tau)
        square = delta**2
        m, v = self.beta1 * m + (1 - self.beta1) * delta, v - (1 - self.beta2) * square * (v - square).sign()
        return self.learning_rate * m / (v.sqrt() + self.tau), {"m": m, "v": v}


def _moments(delta: Tensor, state: OptimizerState, tau: float) -> tuple[Tensor, Tensor]:
    """m and v before this step."""
    return (
        state.get("m", torch.zeros_like(delta)),
        state.get("v", torch.full_like(delta, tau**2)),
    )


def _above_zero(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 < value < math.inf:
            raise UsageError(f"{name} = {value}; expected a finite number above 0 (of the server optimizer)")


def _decays(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 <= value < 1.0:
            raise UsageError(f"{name} = {value}; expected at least 0 and below 1 (of the server optimizer)")
