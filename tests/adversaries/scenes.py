"""Scenes for tests of adversaries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlab.adversaries import Scene


def vectors(rows: Sequence[Sequence[float]], width: int = 0) -> Tensor:
    """(n, d) float64; `width` where there are no rows."""
    return torch.tensor(rows, dtype=torch.float64) if rows else torch.empty(0, width, dtype=torch.float64)


def scene(
    own: Sequence[Sequence[float]],
    honest: Sequence[Sequence[float]],
    *,
    weights: Sequence[float] | None = None,
    honest_weights: Sequence[float] | None = None,
    honest_clients: Sequence[int] | None = None,
    seed: int = 0,
) -> Scene:
    """Attackers 0 to m − 1, honest clients from m on."""
    mine = vectors(own)
    others = vectors(honest, mine.shape[1])
    count = len(mine)
    return Scene(
        own=mine,
        honest=others,
        weights=torch.tensor(weights or [1.0] * count, dtype=torch.float64),
        honest_weights=torch.tensor(honest_weights or [1.0] * len(others), dtype=torch.float64),
        clients=tuple(range(count)),
        honest_clients=tuple(honest_clients or range(count, count + len(others))),
        before=torch.zeros(mine.shape[1], dtype=torch.float64),
        round=1,
        generator=torch.Generator().manual_seed(seed),
    )
