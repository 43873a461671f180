"""How a descent steps: one flat tensor (V, N) of variables, rows independent of each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedlab.tasks import State

Schedule = Callable[[int, int], float]
"""Factor on the step, given (iteration, iterations)."""


class Optimiser(Protocol):
    """Makes the next point of the last one; what it remembers has one row per row of the variables."""

    def start(self, flat: Tensor) -> State:
        """What it remembers before the first step, (V, ...) each."""

    def move(
        self, state: State, flat: Tensor, value: Tensor, slope: Tensor, *, i: int, factor: float, pixels: int
    ) -> Tensor:
        """The next point (V, N); `state` and `slope` may be changed in place.

        Args:
            value, slope: what is minimised at `flat`, (V,), and its gradient (V, N), finite.
            i: iterations done before this one.
            factor: on the step, from the schedule.
            pixels: how many of the first columns are pixels.
        """


@dataclass(frozen=True)
class Adam:
    """D. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980.

    Attributes:
        step: the first one, in units of the variables.
        signed: whether it is fed the sign of the gradient, for pixels only.
        soft: feed it tanh of the gradient over `soft` times its mean size instead of the sign; 0 is the sign.
    """

    step: float = 0.1
    signed: bool = False
    soft: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)

    def start(self, flat: Tensor) -> State:
        return {"mean": torch.zeros_like(flat), "square": torch.zeros_like(flat)}

    def move(
        self, state: State, flat: Tensor, value: Tensor, slope: Tensor, *, i: int, factor: float, pixels: int
    ) -> Tensor:
        if self.signed:
            own = slope[:, :pixels]
            if self.soft:
                own.div_(own.abs().mean(1, keepdim=True).mul_(self.soft).clamp_min_(1e-30)).tanh_()
            else:
                own.sign_()
        (first, second), mean, square = self.betas, state["mean"], state["square"]
        mean.lerp_(slope, 1 - first)
        square.mul_(second).addcmul_(slope, slope, value=1 - second)
        scale = (square / (1 - second ** (i + 1))).sqrt_().add_(1e-8)
        return flat.addcdiv(mean, scale, value=-self.step * factor / (1 - first ** (i + 1)))


def constant(i: int, iterations: int) -> float:
    """The same step all along."""
    return 1.0


@dataclass(frozen=True)
class Decays:
    """The step divided by ten after each of some fractions of the iterations.

    The defaults are those of J. Geiping et al., "Inverting Gradients", NeurIPS 2020, arXiv:2003.14053.
    """

    fractions: tuple[float, ...] = (3 / 8, 5 / 8, 7 / 8)

    def __call__(self, i: int, iterations: int) -> float:
        return 0.1 ** sum(i >= int(fraction * iterations) for fraction in self.fractions)


@dataclass(frozen=True)
class WarmCosine:
    """From nothing to the full step over the first `warm` of the iterations, then down along a cosine."""

    warm: float = 0.05

    def __call__(self, i: int, iterations: int) -> float:
        first = max(1, round(self.warm * iterations))
        if i < first:
            return (i + 1) / first
        return 0.5 * (1 + math.cos(math.pi * (i + 1 - first) / max(iterations - first, 1)))


POLISH = Decays((1 / 4, 1 / 2, 3 / 4))
"""For a short descent from a good start."""
