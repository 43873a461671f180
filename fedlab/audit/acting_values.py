"""What the numbers of an update are like: zeros without a cause, one magnitude, few distinct values.

Training alone leaves zeros as well: a dead unit zeroes a row of a weight, an input that is always zero a
column, and few records behind sparse activations many more. A mechanism's zeros are told from them by what
they have no reason for: the entries that are left have a smallest magnitude far from zero (pruning, top-k),
or the zeros fall on all rows and columns alike, as a random mask's do.

An update is a difference of weights and carries their rounding; magnitudes nearer to each other than that
count as one, and weights whose updates are hardly larger than their rounding are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedlab.audit.acting_sign import Sign, rounding
from fedlab.audit.observation import Observation

SPARSITY, SIGNS, QUANTISATION = "sparsity", "signs only", "quantisation"
ENTRIES = 64
"""Numbers that a weight must have left to be judged."""
MANY_ZEROS = 0.05
"""Share of zeros without a cause from which they are looked into."""
GAP = 0.05
"""The smallest magnitude over the median one from which small ones were left out."""
FINE = 40.0
"""Typical movement over rounding up to which rounding alone makes such zeros, and such a gap above them."""
EVEN = 2.0
"""Variance of the zeros per row over the binomial one up to which they are random."""
ONE_MAGNITUDE = 0.99
"""Share of entries that must agree."""
SIDE = 64
"""Rows and columns of one weight whose magnitudes are compared."""
FEW, MANY = 0.5, 0.9
"""Share of distinct magnitudes up to which they are a lattice, and from which they are not."""


def sparsity(observations: Sequence[Observation]) -> Sign:
    """Whether coordinates were left out; the figure is the share of zeros where row and column move."""
    name = SPARSITY
    if not observations:
        return Sign(name, None, None, "no update to judge")
    zeros = judged = left_out = rough = 0
    for one in observations:
        for key, value in one.update.items():
            if value.dim() < 2 or value.numel() < ENTRIES or not bool(value.any()):
                continue
            if float(value[value != 0].abs().median()) <= FINE * rounding(one.before[key]):
                rough += 1
                continue
            alive = _alive(value)
            judged += alive.numel()
            zeros += int((alive == 0).sum())
            left_out += alive.numel() if _pruned(alive) or _masked(alive) else 0
    if not judged and rough:
        words = "the updates are hardly larger than their rounding, which makes zeros as well"
        return Sign(name, None, None, words)
    if not judged:
        return Sign(name, None, None, f"no weight has {ENTRIES} coordinates, so zeros say nothing")
    share = zeros / judged
    if share < MANY_ZEROS:
        return Sign(name, False, share, f"{share:.1%} of the coordinates are zero without a cause")
    if left_out >= judged / 2:
        words = f"{share:.1%} of the coordinates are zero, though their rows and columns are alive"
        return Sign(name, True, share, words)
    words = (
        f"{share:.1%} of the coordinates are zero in rows and columns that move; few records can do that too"
    )
    return Sign(name, None, share, words)


def sign(observations: Sequence[Observation]) -> Sign:
    """Whether one magnitude is all that is left; the figure is the share of entries that have it."""
    name = SIGNS
    shares = []
    for one in observations:
        sizes = torch.cat([_magnitudes(value, limit) for value, limit in _weights(one)] or [torch.zeros(0)])
        if sizes.numel() >= ENTRIES:
            middle = sizes.median()
            limit = max(rounding(value) for value in one.before.values())
            shares.append(float(((sizes - middle).abs() <= 1e-4 * middle + 2 * limit).double().mean()))
    if not shares:
        return Sign(name, None, None, f"no update has {ENTRIES} numbers well above their rounding")
    share = sum(shares) / len(shares)
    if share >= ONE_MAGNITUDE:
        words = f"{share:.1%} of what moves has one magnitude: signs are sent, or it was one step of Adam"
        return Sign(name, True, share, words)
    return Sign(name, False, share, "the coordinates have magnitudes of their own")


def quantisation(observations: Sequence[Observation]) -> Sign:
    """Whether magnitudes are few; the figure is the share of distinct ones."""
    name = QUANTISATION
    entries = few = 0
    ratios = []
    for one in observations:
        for value, limit in _weights(one):
            ratio = _shared_magnitudes(value, limit)
            if ratio is not None:
                ratios.append(ratio)
                entries += value.numel()
                few += value.numel() if ratio <= FEW else 0
    if not entries:
        return Sign(name, None, None, "no weight has magnitudes enough above its rounding to count them")
    ratio = sum(ratios) / len(ratios)
    if few >= entries / 2:
        return Sign(name, True, ratio, f"rows share their magnitudes ({ratio:.0%} are distinct): a lattice")
    if ratio < MANY:
        return Sign(name, None, ratio, f"{ratio:.0%} of the magnitudes are distinct: fewer than usual")
    return Sign(name, False, ratio, f"{ratio:.0%} of the magnitudes are distinct: no lattice")


def _weights(one: Observation) -> Iterator[tuple[Tensor, float]]:
    """Each weight's update that is well above its rounding, with that rounding."""
    for name, value in one.update.items():
        limit = rounding(one.before[name])
        if value.numel() >= ENTRIES and float(value.abs().max()) > 100 * limit:
            yield value, limit


def _magnitudes(value: Tensor, limit: float) -> Tensor:
    sizes = value.double().abs().flatten()
    return sizes[sizes > limit]


def _shared_magnitudes(value: Tensor, limit: float) -> float | None:
    """Distinct magnitudes of all rows over the sum of each row's; None where rounding would make them equal.

    Of one record a gradient is an outer product, and a row has as few magnitudes as the record has grey
    levels, but its own; so are a column's. Only what rows and columns share is a lattice.
    """
    if value.dim() < 2:
        return None
    block = value.flatten(1).double().abs()
    block = block[:: -(-block.shape[0] // SIDE), :: -(-block.shape[1] // SIDE)]
    moved = block[block > limit]
    # Of M magnitudes spread over the median, M times the rounding must stay far below it.
    if moved.numel() < ENTRIES or moved.numel() * limit > 0.02 * float(moved.median()):
        return None
    most = min(
        sum(_distinct(row, limit) for row in block),
        sum(_distinct(column, limit) for column in block.T),
    )
    return _distinct(block.flatten(), limit) / most


def _distinct(sizes: Tensor, limit: float) -> int:
    """How many magnitudes above `limit` differ by more than rounding."""
    some = sizes[sizes > limit].sort().values
    return min(1, some.numel()) + int((some.diff() > 2 * limit).sum())


def _alive(value: Tensor) -> Tensor:
    """(rows, columns) without those that are zero altogether."""
    flat = value.flatten(1)
    rows, columns = flat.any(1), flat.any(0)
    return flat[rows][:, columns]


def _pruned(alive: Tensor) -> bool:
    """Whether small magnitudes are missing."""
    sizes = alive[alive != 0].double().abs()
    enough = sizes.numel() >= 16 and int((alive == 0).sum()) >= MANY_ZEROS * alive.numel()
    return enough and float(sizes.quantile(0.01) if sizes.numel() < 10**6 else sizes.min()) >= GAP * float(
        sizes.median()
    )


def _masked(alive: Tensor) -> bool:
    """Whether zeros fall on rows and columns alike: their counts vary as those of fair coins."""
    zero = (alive == 0).double()
    share = float(zero.mean())
    if not MANY_ZEROS <= share <= 1 - 1e-3 or min(zero.shape) < 8:
        return False
    for size, counts in ((zero.shape[1], zero.sum(1)), (zero.shape[0], zero.sum(0))):
        if float(counts.var()) > EVEN * size * share * (1 - share):
            return False
    return True
