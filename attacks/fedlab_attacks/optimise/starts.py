"""Where a descent begins: images drawn from each victim's own stream, so that company does not matter.

Patterns are due to W. Wei et al., "A Framework for Evaluating Gradient Leakage Attacks in Federated
Learning", ESORICS 2020, https://arxiv.org/abs/2004.10397: a small random tile, repeated over the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.errors import UnknownName

Start = Callable[[Sequence[int], torch.Generator], Tensor]
"""Images in [0, 1] of a shape (restarts, R, C, H, W), drawn from a generator."""


def uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform noise over the box."""
    return torch.rand(tuple(shape), generator=generator)


def normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Normal noise around grey, of deviation 1/4, clamped to the box."""
    return torch.randn(tuple(shape), generator=generator).mul_(0.25).add_(0.5).clamp_(0.0, 1.0)


@dataclass(frozen=True)
class Constant:
    """One grey value everywhere; restarts do not differ."""

    value: float = 0.5

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return torch.full(tuple(shape), self.value)


@dataclass(frozen=True)
class Patterned:
    """A uniform tile of `width` by `width` pixels, repeated."""

    width: int = 4

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        *rows, height, width = shape
        tile = torch.rand(*rows, self.width, self.width, generator=generator)
        times = [1] * len(rows) + [math.ceil(height / self.width), math.ceil(width / self.width)]
        return tile.repeat(times)[..., :height, :width].contiguous()


STARTS: Mapping[str, Start] = {
    "uniform": uniform,
    "normal": normal,
    "patterned": Patterned(),
    "constant": Constant(),
}


def start_named(name: str) -> Start:
    """One of `STARTS`.

    Raises:
        UnknownName: there is none of that name.
    """
    if name not in STARTS:
        raise UnknownName("start", name, STARTS)
    return STARTS[name]
