"""A pre-aggregator and an aggregator as one aggregator."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fedlab.errors import PluginError
from fedlab.strategies.aggregators.contract import (
    Aggregator,
    AggregatorState,
    Updates,
    called,
    coordinatewise_of,
    minimum,
    needs_root,
)


class Preaggregator(Protocol):
    """Changes updates before they are aggregated, perhaps their number too; remembers nothing."""

    def __call__(self, updates: Updates) -> Updates:
        """The changed updates, float64; `updates` stay as they are."""

    def needed(self, minimum: int) -> int:
        """How many updates it needs so that `minimum` are left."""


class PreAggregated:
    """The aggregator, on what the pre-aggregator makes of the updates.

    Raises:
        PluginError: `before` is no pre-aggregator.
    """

    def __init__(self, before: Preaggregator, aggregator: Aggregator) -> None:
        if not callable(before) or not callable(getattr(before, "needed", None)):
            raise PluginError(
                f"the pre-aggregator {called(before)} must be callable with Updates and have a method"
                f" needed(minimum) -> int; got {before!r}"
            )
        self.before, self.aggregator = before, aggregator
        self.name = f"{called(before)} + {called(aggregator)}"
        self.needs_root = needs_root(aggregator)
        self.coordinatewise = coordinatewise_of(before) and coordinatewise_of(aggregator)
        if self.needs_root:
            self.root_records = int(getattr(aggregator, "root_records", 100))

    @property
    def minimum(self) -> int:
        return int(self.before.needed(minimum(self.aggregator)))

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        changed = self.before(updates)
        self._check(changed, updates)
        return self.aggregator.aggregate(changed, state)

    def _check(self, changed: object, updates: Updates) -> None:
        least, width = minimum(self.aggregator), updates.deltas.shape[1]
        problem = ""
        if not isinstance(changed, Updates):
            problem = f"a {type(changed).__name__}; expected fedlab.strategies.Updates"
        elif changed.deltas.ndim != 2 or changed.deltas.shape[1] != width or len(changed.deltas) < least:
            problem = f"deltas of shape {tuple(changed.deltas.shape)}; expected (at least {least}, {width})"
        elif not len(changed.deltas) == len(changed.weights) == len(changed.clients):
            problem = (
                f"{len(changed.deltas)} deltas, {len(changed.weights)} weights and {len(changed.clients)}"
                " clients; expected as many of each"
            )
        elif changed.deltas.dtype != torch.float64:
            problem = f"deltas of type {changed.deltas.dtype}; expected torch.float64"
        elif not bool(torch.isfinite(changed.deltas).all()):
            problem = "non-finite numbers for finite updates"
        if problem:
            raise PluginError(f"pre-aggregator {called(self.before)} returned {problem}")
