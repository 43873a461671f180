"""Where a descent begins: images drawn from each victim's own stream, so that company does not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Start = Callable[[Sequence[int], torch.Generator], Tensor]
"""Images in [0, 1] of a shape (restarts, R, C, H, W), drawn from a generator."""


def uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform noise over the box."""
    return torch.rand(tuple(shape), generator=generator)
