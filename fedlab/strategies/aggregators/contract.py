"""Aggregators: how n client updates become one step.

An aggregator is a plain function `(deltas, weights) -> delta`, or an object with
`aggregate(updates, state) -> (delta, state)` when it needs more than that or remembers something.
Deltas are float64 and stand in the order of client ids, so that a sum never depends on who answered
first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fedlab.errors import PluginError


@dataclass(frozen=True)
class Updates:
    """One round's updates, in the order of client ids.

    Attributes:
        deltas: (n, d) float64, what each client's parameters moved by.
        weights: (n,) float64, the records that each client holds.
        clients: n client ids, ascending.
        metrics: what each client sent along.
        steps: (n,) float64, how many steps each took; None where they did not say.
        root: (d,) float64, the update of the server's own records, for aggregators that need it.
        generator: of the round's own draws (an aggregator that shuffles, say).
        round: number of the server update that they make, from 1; a round without a model leaves a gap.
    """

    deltas: Tensor
    weights: Tensor
    clients: tuple[int, ...]
    metrics: tuple[dict[str, float], ...] = field(default=())
    steps: Tensor | None = None
    root: Tensor | None = None
    generator: torch.Generator = field(default_factory=torch.Generator)
    round: int = 1


AggregatorState = dict[str, Any]


@runtime_checkable
class Aggregator(Protocol):
    """Combines updates, with a state of its own (empty in the first round).

    Beside its method it may have attributes: `minimum`, the fewest updates that it can combine (a cohort
    that is smaller is refused before the run, a round with fewer is skipped); `needs_root`, whether it needs
    `Updates.root`, and `root_records`, of how many records; `coordinatewise`, as `coordinatewise` says;
    `counts_alike`, whether it passes over `Updates.weights`.
    Updates are not its own: it leaves them as they are.
    """

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        """The combined delta (d,), and the state for the next round."""


AggregatorFunction = Callable[[Tensor, Tensor], Tensor]


def coordinatewise(function: AggregatorFunction) -> AggregatorFunction:
    """Mark a function whose every coordinate depends on that coordinate of the deltas alone.

    It is then called with a few thousand columns at a time, so that the deltas of a large model stay
    in the processor's cache instead of filling the memory.
    """
    function.coordinatewise = True  # type: ignore[attr-defined]
    return function


@dataclass(frozen=True)
class FunctionAggregator:
    """A plain function as an aggregator."""

    function: AggregatorFunction

    @property
    def plain(self) -> AggregatorFunction:
        """The function without the parameters that are bound to it: it has the name and the marks."""
        return self.function.func if isinstance(self.function, functools.partial) else self.function

    @property
    def name(self) -> str:
        return str(getattr(self.plain, "__name__", type(self.plain).__name__))

    @property
    def minimum(self) -> int:
        return int(getattr(self.plain, "minimum", 1))

    @property
    def coordinatewise(self) -> bool:
        """Whether it may be called with some columns at a time."""
        return bool(getattr(self.plain, "coordinatewise", False))

    def aggregate(self, updates: Updates, state: AggregatorState) -> tuple[Tensor, AggregatorState]:
        return self.function(updates.deltas, updates.weights), state


def as_aggregator(candidate: object) -> Aggregator:
    """Accept an object with `aggregate`, a class of such objects, or a plain function.

    Raises:
        PluginError: for anything else.
    """
    if isinstance(candidate, type):
        candidate = candidate()
    if isinstance(candidate, Aggregator):
        return candidate
    if callable(candidate):
        return FunctionAggregator(candidate)
    raise PluginError(
        f"an aggregator must be a function (deltas, weights) -> delta, or have a method"
        f" aggregate(updates, state); got {candidate!r}"
    )


def checked(
    aggregator: Aggregator, updates: Updates, state: AggregatorState
) -> tuple[Tensor, AggregatorState]:
    """Aggregate, and refuse an answer that is no finite vector of floating-point numbers, (d,).

    Raises:
        PluginError: too few updates, or the aggregator failed or returned something else.
    """
    name, least = called(aggregator), minimum(aggregator)
    if len(updates.deltas) < least:
        raise PluginError(f"aggregator {name} combines at least {least} updates; got {len(updates.deltas)}")
    try:
        answer = aggregator.aggregate(updates, state)
    except PluginError:
        raise
    except Exception as error:  # a plugin may raise anything
        raise PluginError(f"aggregator {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], dict):
        raise PluginError(
            f"aggregator {name} returned a {type(answer).__name__}; expected a pair (delta, state), the state"
            " a dict"
        )
    delta, new_state = answer
    expected = tuple(updates.deltas.shape[1:])
    if not isinstance(delta, Tensor) or tuple(delta.shape) != expected:
        got = tuple(delta.shape) if isinstance(delta, Tensor) else type(delta).__name__
        raise PluginError(f"aggregator {name} returned {got}; expected a tensor of shape {expected}")
    if not delta.dtype.is_floating_point:
        raise PluginError(f"aggregator {name} returned {delta.dtype}; expected torch.float64")
    if not bool(torch.isfinite(delta).all()):
        raise PluginError(f"aggregator {name} returned non-finite numbers for finite updates")
    return delta.double(), new_state


def called(part: object) -> str:
    """What to call an aggregator or a pre-aggregator: by its `name` if it has one, or by its class."""
    return str(getattr(part, "name", type(part).__name__))


def minimum(aggregator: object) -> int:
    """The fewest updates that it can combine."""
    return int(getattr(aggregator, "minimum", 1))


def coordinatewise_of(part: object) -> bool:
    """Whether it may be called with some columns at a time."""
    return bool(getattr(part, "coordinatewise", False))


def needs_root(aggregator: object) -> bool:
    """Whether it needs the update of the server's own records."""
    return bool(getattr(aggregator, "needs_root", False))
