"""Lengths of updates and distances between them.

All pairs come out of one Gram matrix, ‖x_i − x_j‖² = ‖x_i‖² + ‖x_j‖² − 2 x_i·x_j, in n²d operations of
BLAS and without a copy of the (n, d) matrix. Where two updates are nearly equal that difference of large
numbers has few correct digits, or is negative; those pairs are worked out again from x_i − x_j itself.
(flwr 1.41 keeps what is left, in float32 and of whole models instead of updates.)
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 1e-6
"""Pairs whose ‖x_i − x_j‖² is below this share of ‖x_i‖² + ‖x_j‖² are worked out again. The others have a
relative error of at most about 1e-16 / NEAR."""


def norms(deltas: Tensor) -> Tensor:
    """(n,) the Euclidean length of each row of (n, d)."""
    lengths: Tensor = torch.linalg.vector_norm(deltas, dim=1)
    return lengths


def squared_distances(deltas: Tensor) -> Tensor:
    """(n, n) ‖x_i − x_j‖² of the rows of (n, d): symmetric, not negative, 0 on the diagonal."""
    gram = deltas @ deltas.T
    squares = gram.diagonal()
    sums = squares[:, None] + squares[None, :]
    found = (sums - (gram + gram.T)).clamp_(min=0.0).fill_diagonal_(0.0)
    near = (found <= NEAR * sums).triu(1)
    for i, j in near.nonzero().tolist():
        exact = (deltas[i] - deltas[j]).square_().sum()
        found[i, j] = found[j, i] = exact
    return found


def clipping(lengths: Tensor, bound: float | Tensor) -> Tensor:
    """(n,) min(1, bound / length): what makes vectors of these lengths no longer than `bound`."""
    return torch.where(lengths > bound, bound / lengths, torch.ones_like(lengths))
