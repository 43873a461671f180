"""The rounds of any Flower `Strategy`, one at a time.

`flwr.serverapp.strategy.Strategy.start` runs from the first round to the last and cannot be entered
in the middle. This is the same loop (train, aggregate, evaluate, aggregate) as a generator: whoever
iterates can stop after any round and go on from there later. The results are equal.

A strategy with rounds of its own (`OwnRounds`) goes through them itself.

Differences: the timeout is None (wait for all) unless given, a round may go on with the first
`enough` replies, and central evaluation is left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy


@dataclass(frozen=True)
class Round:
    """What one round left behind.

    Attributes:
        number: counted from 1.
        arrays: the model after the round.
        updated: whether the strategy made a new model; without one the old one stays.
        train, evaluate: what the strategy made of the clients' metrics.
    """

    number: int
    arrays: ArrayRecord
    updated: bool
    train: MetricRecord | None
    evaluate: MetricRecord | None


@runtime_checkable
class OwnRounds(Protocol):
    """A strategy that knows no cohorts, and goes through its server updates in its own way."""

    def run_rounds(
        self,
        grid: Grid,
        arrays: ArrayRecord,
        *,
        first: int = 1,
        last: int,
        timeout: float | None = None,
        received: Callable[[int], None] = lambda number: None,
        train_config: ConfigRecord | None = None,
    ) -> Iterator[Round]:
        """As `rounds`; it may end early."""


def rounds(
    strategy: Strategy,
    grid: Grid,
    arrays: ArrayRecord,
    *,
    first: int = 1,
    last: int,
    timeout: float | None = None,
    enough: int | None = None,
    received: Callable[[int], None] = lambda number: None,
    train_config: ConfigRecord | None = None,
    evaluate_config: ConfigRecord | None = None,
) -> Iterator[Round]:
    """Rounds `first` to `last`, starting from the model `arrays`.

    Args:
        timeout: seconds (virtual ones on a simulated Grid) that a round waits for its replies.
        enough: training replies without error that a round waits for; only our own Grids know it.
        received: called with the round's number when the training replies are in, before anything
            is made of them: the place to write down what must not be lost once the model is out.
    """
    if isinstance(strategy, OwnRounds):
        yield from strategy.run_rounds(
            grid,
            arrays,
            first=first,
            last=last,
            timeout=timeout,
            received=received,
            train_config=train_config,
        )
        return
    selection: dict[str, Any] = {} if enough is None else {"enough": enough}
    for number in range(first, last + 1):
        configured = strategy.configure_train(number, arrays, train_config or ConfigRecord(), grid)
        replies: Iterable[Message] = grid.send_and_receive(configured, timeout=timeout, **selection)
        received(number)
        made, train = strategy.aggregate_train(number, replies)
        arrays = arrays if made is None else made
        configured = strategy.configure_evaluate(number, arrays, evaluate_config or ConfigRecord(), grid)
        replies = grid.send_and_receive(configured, timeout=timeout)
        evaluate = strategy.aggregate_evaluate(number, replies)
        yield Round(number, arrays, made is not None, train, evaluate)
