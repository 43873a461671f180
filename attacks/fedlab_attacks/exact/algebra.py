"""The algebra that the closed forms share: how much of an update is rounding, ranks, least squares, verdicts.

A server holds differences of float32 weights, so every equation below is known up to rounding. An entry that
was sent as w and came back after s steps is off by about eps |w| √s, and the gradient's own sums by a few eps
of the change. A matrix whose entries are off by independent errors of size E has a largest singular value of
at most about (largest row norm + largest column norm) of E (A. Bandeira and R. van Handel, Annals of
Probability 44(4), 2016, https://arxiv.org/abs/1408.6185): what lies below does not count as rank, and a
residual above it is no rounding, so that an update with noise on it is never certified.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import Observation
from fedlab.errors import NotApplicable
from fedlab_attacks.reading import steps

SUMS = 4.0
"""Units of rounding, relative to the change, that the client's own float32 sums are allowed."""
COARSE = 0.1
"""Rounding above this share of what was observed proves nothing: anything would fit."""


@dataclass(frozen=True)
class Measured:
    """A matrix of which a server knows every entry up to rounding.

    Attributes:
        values: (m, n), float64.
        rounding: largest singular value that rounding alone may have.
        noise: Frobenius norm that rounding alone may have.
    """

    values: Tensor
    rounding: float
    noise: float

    @property
    def tolerance(self) -> float:
        """The relative residual that rounding explains."""
        return self.noise / max(float(self.values.norm()), 1e-300)


def measured(observation: Observation, *names: str) -> Measured:
    """The updates of `names` side by side: (m, n + 1) for a layer's weight (m, n) and bias (m,).

    Weight decay, where it is known, is taken out, which leaves -Σ_t c_t g_t over the gradients g_t of the
    local steps, with one c_t > 0 for all parameters: for one step or several, with momentum or without.

    Raises:
        NotApplicable: one of them is not trained.
    """
    frozen = [name for name in names if name not in observation.update]
    if frozen:
        raise NotApplicable(f"{frozen[0]} is not trained, and no update tells of its gradient")
    shrunk = trained(observation, 1.0, 0.0) - 1.0
    columns, errors = [], []
    for name in names:
        sent, change = observation.before[name].double(), observation.update[name]
        unit = torch.finfo(change.dtype).eps
        value = change.double() - shrunk * sent
        error = unit * (sent.square() * steps(observation) + value.square() * SUMS**2).sqrt()
        columns.append(value.reshape(len(value), -1))
        errors.append(error.reshape(len(error), -1))
    off = torch.cat(errors, dim=1)
    largest = float(off.norm(dim=0).max() + off.norm(dim=1).max())
    return Measured(torch.cat(columns, dim=1), largest, float(off.norm()))


def trained(observation: Observation, weight: float, slope: float) -> float:
    """What the local steps make of `weight` if its gradient is `slope` in each of them.

    w <- w - lr v, v <- momentum v + slope + decay w, from v = 0; what is not known counts as 0.
    """
    config = observation.config
    rate, decay, momentum = config.learning_rate or 0.0, config.weight_decay or 0.0, config.momentum or 0.0
    velocity = 0.0
    for _ in range(steps(observation)):
        velocity = momentum * velocity + slope + decay * weight
        weight -= rate * velocity
    return weight


@dataclass(frozen=True)
class Spectrum:
    """Singular values (k,), descending, and the floor below which they are rounding."""

    singular: Tensor
    floor: float

    @property
    def rank(self) -> int:
        """How many rise above the floor."""
        return int((self.singular > self.floor).sum())

    @property
    def condition(self) -> float:
        """The largest over the smallest that counts; inf if none does."""
        return float(self.singular[0] / self.singular[self.rank - 1]) if self.rank else float("inf")


def spectrum(matrix: Tensor, floor: float = 0.0) -> Spectrum:
    """The singular values of `matrix` (m, n), with a floor of at least their own rounding."""
    singular = torch.linalg.svdvals(matrix)
    return Spectrum(singular, max(floor, _own_rounding(matrix, singular)))


def _own_rounding(matrix: Tensor, singular: Tensor) -> float:
    return torch.finfo(matrix.dtype).eps * max(matrix.shape) * float(singular[:1].sum())


@dataclass(frozen=True)
class Solution:
    """Least squares of least norm: A X = Y.

    Attributes:
        value: X (n, k).
        rank, unknowns: of A (m, n); `unknowns` is n, for each column of Y.
        condition: largest singular value of A over the smallest that counts.
        residual: ‖Y - A X‖ / ‖Y‖.
    """

    value: Tensor
    rank: int
    unknowns: int
    condition: float
    residual: float

    @property
    def null_space(self) -> int:
        """Dimension of the other solutions, for each column of Y."""
        return self.unknowns - self.rank


def solve(matrix: Tensor, right: Tensor, floor: float = 0.0) -> Solution:
    """Solve `matrix` (m, n) X = `right` (m, k); singular values up to `floor` count as zero."""
    u, singular, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = Spectrum(singular, max(floor, _own_rounding(matrix, singular)))
    kept = found.rank
    value = vh[:kept].T @ ((u[:, :kept].T @ right) / singular[:kept, None])
    residual = float((right - matrix @ value).norm()) / max(float(right.norm()), 1e-300)
    return Solution(value, kept, matrix.shape[1], found.condition, residual)


def certify(
    method: str,
    solved: str,
    *,
    rank: int,
    unknowns: int,
    condition: float,
    residual: float,
    tolerance: float,
    null_space: int | None = None,
    open_: str = "",
) -> Certificate:
    """The verdict on an answer.

    "unique" needs three things: nothing is left open, the residual is at most `tolerance` (what rounding
    explains), and rounding is small against what was observed. An answer that does not explain the update
    is "not applicable": the equations are not those of this update.

    Args:
        null_space: dimension of the other solutions; `unknowns - rank` unless given.
        open_: what is left open where it is not unique.
    """
    left = unknowns - rank if null_space is None else null_space
    numbers = Certificate(method, "not unique", solved, open_, rank, unknowns, condition, left, residual)
    if not residual <= tolerance:
        why = (
            f"the update is not explained up to rounding: residual {residual:.1e}, rounding {tolerance:.1e}"
            " (noise, a wrong number of records, or a client that did something else)"
        )
        return replace(numbers, verdict="not applicable", reason=why)
    if tolerance > COARSE:
        why = f"rounding is {tolerance:.0%} of the update: anything would fit"
        return replace(numbers, verdict="not applicable", reason=why)
    if left > 0 or rank < unknowns or open_:
        return numbers
    return replace(numbers, verdict="unique")
