"""Strategies that go through their server updates in their own way, as Flower strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedlab.errors import UsageError
from fedlab.strategies.rounds import Round


class Unrounded(Strategy, ABC):
    """A strategy whose rounds are not Flower's: a kind of it overrides `run_rounds`.

    Attributes:
        kind: how errors, checkpoints and reports call it.
    """

    kind: ClassVar[str]

    @abstractmethod
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
        """Server updates `first` to `last`, starting from the model `arrays`; see `rounds.OwnRounds`."""

    def summary(self) -> None:
        """Flower prints this at the start of a run; the scenario says it all already."""

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float | None = 3600.0,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """What Flower's ServerApps call: all updates at once.

        Args:
            num_rounds: server updates.
            timeout: seconds after which a client is no longer waited for.
            evaluate_fn: called with the model before the first update, and after each one.
        """
        result = Result(arrays=initial_arrays)

        def tested(number: int) -> None:
            found = evaluate_fn(number, result.arrays) if evaluate_fn is not None else None
            if found is not None:
                result.evaluate_metrics_serverapp[number] = found

        tested(0)
        for one in self.run_rounds(
            grid, initial_arrays, last=num_rounds, timeout=timeout, train_config=train_config
        ):
            result.arrays = one.arrays
            if one.train is not None:
                result.train_metrics_clientapp[one.number] = one.train
            tested(one.number)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """There are no rounds to configure.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.kind} has no rounds to configure; call start, or run_rounds")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Likewise."""
        raise UsageError(f"{self.kind} has no rounds to aggregate; call start, or run_rounds")

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluation is central."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Evaluation is central."""
        return None
