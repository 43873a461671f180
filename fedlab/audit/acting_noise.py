"""Whether noise lies on the updates, and if not, how little there can be at most.

Noise of one standard deviation σ moves every coordinate, also those that training leaves alone: weights of
dead units, of inputs that are always zero, of classes that a client does not have. So no row or column of a
weight can move less than σ, and the quietest ones

- all move alike, by σ: their root mean squares differ by 1/√(2s) for s coordinates, no more;
- are independent of each other: the squared cosine of two of them is 1/s in the mean (any spherical law);
- are independent between clients, likewise.

Training without noise has quiet rows as well, but they fall off gradually, share the few inputs and errors
that made them, and follow the one loss that all clients have. Of 144 trainings without noise (softmax, MLP,
CNN, batch norm; 1 to 20 steps of SGD, momentum or Adam) none fulfils all three conditions.

The movement of the quietest row bounds σ from above in any case. This is a detector for noise that is equal
everywhere, as DP-SGD, local and user-level DP add it; it estimates no guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlab.audit.acting_sign import Sign, rounding
from fedlab.audit.acting_values import sparsity
from fedlab.audit.observation import Observation

NAME = "noise"
SIZE = 8
"""Coordinates that a row must have."""
FEWEST = 5
"""Rows that must move alike."""
SPREAD = 6.0
"""Standard deviations above the quietest row up to which rows move alike."""
SHARED = 0.05
"""Mean squared cosine beyond chance up to which rows are independent."""
LITTLE = 0.05
"""Noise below this part of a typical movement hides nothing."""
MOST = 128
"""Quiet rows of one matrix that are compared with each other."""


@dataclass(frozen=True)
class Rows:
    """Rows (or columns) of one weight in the updates of n clients.

    Attributes:
        values: (n, rows, s) float64; moves: (rows,) root mean square over clients and coordinates.
    """

    values: Tensor
    moves: Tensor

    @property
    def size(self) -> int:
        return self.values.shape[2]


@dataclass(frozen=True)
class Floor:
    """The quietest rows of all.

    Attributes:
        level: how much the quietest row moves; typical: root mean square over all coordinates.
        rows: how many move no more than noise of that level would explain.
        between_rows, between_clients: their mean squared cosines, beyond those of independent ones; None
            where there is no pair.
        error: standard error of the latter, were clients independent: a squared cosine in s dimensions
            varies by about √2/s. With few rows of two or three clients it is too large to tell.
    """

    level: float
    typical: float
    rows: int
    between_rows: float | None
    between_clients: float | None
    error: float

    @property
    def alike(self) -> bool:
        """Whether rows move alike and apart from each other, as with noise."""
        apart = (self.between_rows, self.between_clients)
        return self.rows >= FEWEST and all(one is not None and one <= SHARED for one in apart)

    @property
    def noisy(self) -> bool:
        """Whether only noise moves so."""
        return self.alike and self.error <= SHARED


def noise(observations: Sequence[Observation]) -> Sign:
    """Whether the quietest rows move as noise does; the figure is their movement over a typical one."""
    if len(observations) < 2:
        return Sign(NAME, None, None, "fewer than two updates: what is independent cannot be told")
    found = floor(observations)
    if found is None:
        return Sign(
            NAME, None, None, f"no weight has two rows of {SIZE} coordinates, so no floor can be found"
        )
    part = found.level / found.typical
    error = max(rounding(value) for value in observations[0].before.values())
    if sparsity(observations).acts:
        return Sign(NAME, None, part, "coordinates were left out, and noise on them with them")
    if found.level > 4 * error and found.noisy:
        words = (
            f"the {found.rows} quietest rows all move by {found.level:.3g} ({part:.2g} of a typical"
            f" movement), independently of each other and between {len(observations)} updates, as noise does"
        )
        return Sign(NAME, True, part, words)
    if found.level > 4 * error and found.alike:
        words = (
            f"the {found.rows} quietest rows all move by {found.level:.3g} ({part:.2g} of a typical"
            f" movement), as noise does; {len(observations)} updates are too few to tell whether by chance"
        )
        return Sign(NAME, None, part, words)
    if part <= LITTLE:
        words = f"some rows move by {part:.2g} of a typical movement or less: noise, if any, is no larger"
        return Sign(NAME, False, part, words)
    words = (
        f"the quietest rows do not move as noise does, but by {part:.2g} of a typical movement:"
        " noise that is smaller could not be seen"
    )
    return Sign(NAME, None, part, words)


def floor(observations: Sequence[Observation]) -> Floor | None:
    """The quietest rows of all weights, and whether they are independent; None if no weight has rows."""
    all_rows = list(_rows(observations))
    if not all_rows:
        return None
    level = min(float(rows.moves.min()) for rows in all_rows)
    squares = [value.double().square() for one in observations for value in one.update.values()]
    typical = math.sqrt(sum(float(v.sum()) for v in squares) / sum(v.numel() for v in squares))
    count, between_rows, between_clients, spread = 0, [], [], 0.0
    for rows in all_rows:
        chance = SPREAD / math.sqrt(2 * rows.size * len(observations))
        quiet = rows.moves <= level * (1 + chance)
        count += int(quiet.sum())
        values = rows.values[:, quiet][:, :MOST]
        directions = values / values.norm(dim=2, keepdim=True).clamp_min(1e-300)
        between_rows.append(_shared(directions, rows.size))
        between_clients.append(_shared(directions.transpose(0, 1), rows.size))
        spread += between_clients[-1].numel() / 2 * 2.0 / rows.size**2  # each pair is there twice
    pairs = sum(one.numel() for one in between_clients) / 2
    error = math.sqrt(spread) / pairs if pairs else math.inf
    return Floor(level, typical, count, _mean(between_rows), _mean(between_clients), error)


def _rows(observations: Sequence[Observation]) -> Iterator[Rows]:
    """Rows and columns of every weight that anybody moved."""
    for name, first in observations[0].update.items():
        if first.dim() < 2:
            continue
        values = torch.stack([one.update[name].flatten(1) for one in observations]).double()
        for view in (values, values.transpose(1, 2)):
            if view.shape[1] > 1 and view.shape[2] >= SIZE and bool(view.any()):
                yield Rows(view, view.square().mean((0, 2)).sqrt())


def _shared(directions: Tensor, size: int) -> Tensor:
    """Squared cosines (m, k, k) beyond chance of k unit vectors in each of m sets, without the diagonal."""
    squares = (directions @ directions.transpose(1, 2)).square() - 1.0 / size
    return squares[:, ~torch.eye(squares.shape[1], dtype=torch.bool)].flatten()


def _mean(parts: Sequence[Tensor]) -> float | None:
    every = torch.cat(list(parts))
    return float(every.mean()) if every.numel() else None
