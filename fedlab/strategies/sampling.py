"""Samplers: which clients a round asks.

A sampler is called `f(nodes, size, round, generator)` and returns ids of `nodes` to ask, ascending. What it
draws comes from `generator`, which depends on (seed, round) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Sampler = Callable[[Sequence[int], int, int, np.random.Generator], list[int]]
"""(nodes, size, round, generator) -> the nodes to ask."""


def uniform(nodes: Sequence[int], size: int, round: int, generator: np.random.Generator) -> list[int]:
    """`size` clients, each as likely as any other, none twice."""
    picks = generator.choice(len(nodes), size=size, replace=False)
    return sorted(nodes[int(i)] for i in picks)
