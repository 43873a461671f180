"""States as vectors, and what clients changed as rows of a matrix.

The matrix is float64, (clients, parameters): for fifty clients of a large model more than half a
gigabyte. Who needs only some columns at a time gets it in blocks that fit the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedlab.runtime.arrays import runs
from fedlab.tasks import State

BLOCK = 8192
"""Columns of a block."""


def flatten(state: State, names: Sequence[str]) -> Tensor:
    """(d,) float64 of the named tensors, in that order."""
    return torch.cat([state[name].reshape(-1).double() for name in names])


def unflatten(vector: Tensor, like: State, names: Sequence[str]) -> State:
    """The named tensors out of `vector`, with the shapes and types of `like`, in memory of their own."""
    sizes = [like[name].numel() for name in names]
    parts = torch.split(vector, sizes)
    return {
        n: p.reshape(like[n].shape).to(like[n].dtype, copy=True) for n, p in zip(names, parts, strict=True)
    }


def deltas(
    records: Sequence[ArrayRecord],
    before: State | Sequence[State],
    names: Sequence[str],
    width: int | None = None,
) -> Iterator[Tensor]:
    """(n, k) float64 blocks of at most `width` columns, or all at once: by how much the named arrays of
    each record differ from `before` (one model for all, or each record's own), flattened.

    A block is overwritten by the next one.
    """
    origins = [before] * len(records) if isinstance(before, Mapping) else before
    arrays = {name: [record[name] for record in records] for name in names}
    total = sum(origins[0][name].numel() for name in names)
    block = torch.empty(len(records), min(width or total, total), dtype=torch.float64)
    filled = 0
    for name in names:
        flat = {id(origin): origin[name].reshape(-1).double() for origin in origins}
        stretches = [
            (top + first, values[first:last], flat[id(origins[top + first])])
            for top, values in ((top, stack.reshape(len(stack), -1)) for top, stack in runs(arrays[name]))
            for first, last in _alike(origins[top : top + len(values)])
        ]
        kinds = {values.dtype for _, values, _ in stretches}
        if len(stretches) == len(records) > 1 == len(kinds):  # each from another stack: all rows at once
            own = torch.stack([flat[id(origin)] for origin in origins])
            stretches = [(0, torch.cat([values for _, values, _ in stretches]), own)]
        count, start = origins[0][name].numel(), 0
        while start < count:
            size = min(count - start, block.shape[1] - filled)
            part = block[:, filled : filled + size]
            for top, values, origin in stretches:
                rows = part[top : top + len(values)]
                # in two steps: four times quicker
                rows.copy_(values[:, start : start + size]).sub_(origin[..., start : start + size])
            start, filled = start + size, filled + size
            if filled == block.shape[1]:
                yield block
                filled = 0
    if filled:
        yield block[:, :filled]


def _alike(origins: Sequence[State]) -> Iterator[tuple[int, int]]:
    """From where to where the same model follows upon itself."""
    first = 0
    for place in range(1, len(origins) + 1):
        if place == len(origins) or origins[place] is not origins[first]:
            yield first, place
            first = place


def averaged(records: Sequence[ArrayRecord], before: State, share: Tensor) -> State:
    """`before`, moved by the weighted sum of what the records changed in it; `share` (n,) float64."""
    after = {}
    for name, like in before.items():
        (moved,) = deltas(records, before, [name])
        mean = like + (share @ moved).reshape(like.shape)
        after[name] = (mean if like.dtype.is_floating_point else mean.round()).to(like.dtype)
    return after
