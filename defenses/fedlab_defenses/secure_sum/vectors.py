"""What a client sends as integers: its weighted update, and its weighted figures.

Of n clients with weights w_i (records, or 1 each; at most `cap`) the server gets, modulo the masks' integers,

    values = Σ_i round(w_i / cap · clip(Δ_i) / step),     figures = Σ_i w_i (1, round(f_i / 2^-16)).

The weights are summed exactly, and a figure that is alike for all comes out as it was. Integer arrays (a
batch counter) travel among the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab.errors import FedlabError
from fedlab_defenses.secure_sum.plan import FIGURE_BITS, Plan

Integers = NDArray[np.uint32] | NDArray[np.uint64]


@dataclass(frozen=True)
class Vectors:
    """Both, as one client sends them or as their sum."""

    values: Integers
    figures: Integers

    def __add__(self, other: Vectors) -> Vectors:
        return Vectors(self.values + other.values, self.figures + other.figures)

    def __sub__(self, other: Vectors) -> Vectors:
        return Vectors(self.values - other.values, self.figures - other.figures)


def encoded(
    plan: Plan,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    figures: Sequence[float],
    weight: int,
    cap: int,
) -> Vectors:
    """What a client with weight `weight` adds to the sum; arrays in the order of `before`.

    Raises:
        FedlabError: a number is NaN or infinite, which no sum of integers can hold.
    """
    moved = {name: after[name].double() - value.double() for name, value in before.items()}
    floats = _joined([moved[name] for name in moved if before[name].is_floating_point()])
    whole = _joined([moved[name] for name in moved if not before[name].is_floating_point()])
    told = np.concatenate([np.asarray(figures, dtype=np.float64), whole])
    if not (np.isfinite(floats).all() and np.isfinite(told).all()):
        raise FedlabError(
            "the update has NaN or infinite numbers, which cannot be masked: training diverged;"
            " lower clients.learning_rate"
        )
    largest = plan.largest_figure(cap)
    fixed = np.rint(np.clip(told, -largest, largest) * 2.0**FIGURE_BITS).astype(np.int64)
    counted = np.concatenate([[weight], weight * fixed]).astype(np.int64).astype(np.uint64)
    return Vectors(plan.quantiser.encode(floats, weight / cap), counted)


def decoded(
    plan: Plan, total: Vectors, before: Mapping[str, Tensor], names: Sequence[str], cap: int
) -> tuple[dict[str, Tensor], dict[str, float], int]:
    """The model moved by the weighted mean of the updates, the weighted means of the figures that are called
    `names`, and the sum of the weights."""
    weight = int(total.figures[0])
    told = total.figures[1:].view(np.int64).astype(np.float64) / (weight * 2.0**FIGURE_BITS)
    mean = plan.quantiser.decode(total.values) * (cap / weight)
    after, place, counted = {}, 0, len(names)
    for name, value in before.items():
        size = value.numel()
        if value.is_floating_point():
            step, place = mean[place : place + size], place + size
            moved = value.double() + _tensor(step).reshape(value.shape)
        else:
            step, counted = told[counted : counted + size], counted + size
            moved = value.double() + _tensor(step).reshape(value.shape).round()
        after[name] = moved.to(value.dtype)
    return after, dict(zip(names, told.tolist(), strict=False)), weight


def sizes(before: Mapping[str, Tensor], figures: int) -> tuple[int, int]:
    """How long both vectors are for a model, and so many figures."""
    floats = sum(value.numel() for value in before.values() if value.is_floating_point())
    return floats, 1 + figures + sum(value.numel() for value in before.values()) - floats


def _joined(parts: Sequence[Tensor]) -> NDArray[np.float64]:
    found = torch.cat([part.reshape(-1) for part in parts]) if parts else torch.zeros(0, dtype=torch.float64)
    return np.asarray(found.numpy(), dtype=np.float64)


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
