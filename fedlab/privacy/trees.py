"""What a tree of noise costs a user who takes part now and then: DP-FTRL's accounting.

Kairouz, McMahan, Song, Thakkar, Thakurta, Xu, "Practical and Private (Deep) Learning without Sampling or
Shuffling", ICML 2021, https://arxiv.org/abs/2103.00039. Steps p = 1, 2, ... are the leaves of a binary
tree; what is released after step p is the sum over the steps 1 to p, made of the nodes of p's binary
decomposition, each with noise N(0, σ²C²) of its own.

Of the tree only those nodes are ever released, and each step releases one that is new: the node that ends
at p and covers the `width(p)` steps before it, p's lowest bit (a Fenwick tree). So, for a user who takes
part in the steps S with vectors of length at most C each, the released nodes move by at most C √(Σ_p |S ∩
node(p)|²), which is reached when all of them point the same way. One participation costs at most ⌊log2 T⌋ +
1 nodes, the bound of the paper; k of them at most k² times as many, but mostly fewer: `sensitivity` counts.

Vectors that depend on earlier releases change nothing: the noise is Gaussian and the sums are released in
order (Denisov, McMahan, Rush, Smith, Thakurta, "Improved Differential Privacy for SGD via Optimal Private
Linear Operators on Adaptive Streams", NeurIPS 2022, https://arxiv.org/abs/2202.08312; for many
participations Choquette-Choo, McMahan, Rush, Thakurta, "Multi-Epoch Matrix Factorization Mechanisms for
Private Machine Learning", ICML 2023, https://arxiv.org/abs/2211.06530).

Restarts: after `restart` steps a new tree begins. The last step of a tree that ends so releases one node
over the whole of it, as if steps without anybody had filled it up (the paper's tree completion).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedlab.errors import UsageError


def place(step: int, restart: int | None) -> tuple[int, int]:
    """(tree, position) of a step; trees count from 0, positions and steps from 1.

    >>> place(5, 4)
    (1, 1)
    """
    tree, before = (0, step - 1) if restart is None else divmod(step - 1, restart)
    return tree, before + 1


def width(position: int, restart: int | None = None) -> int:
    """How many steps the node covers that ends at `position`, itself included."""
    return position if position == restart else position & -position


def nodes(position: int, restart: int | None = None) -> list[int]:
    """The ends of the nodes whose sum is released at `position`; 0 steps take none.

    >>> nodes(7), nodes(8), nodes(7, 7)
    ([7, 6, 4], [8], [7])
    """
    ends = []
    while position > 0:
        ends.append(position)
        position -= width(position, restart)
    return ends


def squared_sensitivity(steps: Iterable[int], last: int, restart: int | None = None) -> int:
    """Σ |S ∩ node|² over all nodes that are released up to the step `last`, in units of C².

    Args:
        steps: S, those in which the user took part, each once.

    Raises:
        UsageError: a step beyond `last`.
    """
    taken = np.zeros(last + 1, dtype=np.int64)
    for step in steps:
        if not 1 <= step <= last:
            raise UsageError(f"step {step}; expected one of 1 to {last}")
        taken[step] = 1
    size = last if restart is None else restart
    total = 0
    for start in range(0, last, max(size, 1)):
        part = taken[start + 1 : start + size + 1]
        if part.any():
            total += _of_tree(part, restart)
    return total


def _of_tree(taken: NDArray[np.int64], restart: int | None) -> int:
    """Σ over the nodes of one tree; `taken` (steps,) is 1 where the user took part."""
    ends = np.arange(1, len(taken) + 1)
    widths = ends & -ends
    if restart == len(taken):
        widths[-1] = restart
    before = np.concatenate([[0], np.cumsum(taken)])
    return int(np.square(before[ends] - before[ends - widths]).sum())


def worst_squared_sensitivity(participations: int, last: int, restart: int | None = None) -> int:
    """The largest `squared_sensitivity` over all choices of at most so many of the steps up to `last`.

    Exact: the nodes of a tree are nested, so the best way to spread k steps over a node is the best split
    between its halves, for each k.
    """
    most = min(participations, last)
    best = np.zeros(1, dtype=np.int64)
    size = last if restart is None else min(restart, last)
    whole, rest = divmod(last, size) if size else (0, 0)
    tree = _worst(size, most, restart == size)
    for _ in range(whole):
        best = _split(best, tree, most)
    if rest:
        best = _split(best, _worst(rest, most, False), most)
    return int(best.max())


def _worst(size: int, most: int, completed: bool) -> NDArray[np.int64]:
    """(k + 1,) the worst of one tree by the number of participations in it."""
    rest, best = size - 1 if completed else size, np.zeros(1, dtype=np.int64)
    inner, level = np.zeros(2, dtype=np.int64), 0  # of a node of 2^level steps, but for the node itself
    while rest >> level:
        full = inner + np.square(np.arange(len(inner)))
        if rest >> level & 1:
            best = _split(best, full, most)
        inner, level = _split(full, inner, most), level + 1
    if completed:  # one node over all, in place of the last step's own
        best = _split(best, np.zeros(2, dtype=np.int64), most)
        best = best + np.square(np.arange(len(best)))
    return best


def _split(left: NDArray[np.int64], right: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The best sum of the two by the number of participations in both, at most `most`."""
    best = np.zeros(min(len(left) + len(right) - 1, most + 1), dtype=np.int64)
    for taken, value in enumerate(left[: len(best)]):
        part = right[: len(best) - taken]
        np.maximum(best[taken : taken + len(part)], value + part, out=best[taken : taken + len(part)])
    return best
