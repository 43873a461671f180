"""Push and pull are all that an asynchronous server needs: a Grid with Flower's abstract methods only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedlab.errors import FedlabError
from fedlab.runtime import SimulationGrid, wrapped
from fedlab.runtime._flower import Run
from fedlab.runtime.arrays import array_record
from fedlab.strategies.asynchronous import Buffered
from tests.runtime.apps import squares_app
from tests.strategies.asynchronous.scenes import SEED, server


class Plain(Grid):
    """Flower's Grid and nothing else, over the simulation; a pull may bring nothing, as over a network."""

    def __init__(self, count: int, *, broken: bool = False) -> None:
        self._inner = SimulationGrid(squares_app(), count, seed=SEED)
        self._broken, self._pulls = broken, 0

    def set_run(self, run: Run) -> None:
        raise AssertionError("not to be used")

    @property
    def run(self) -> Run:
        return self._inner.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        raise AssertionError("not to be used")

    def get_node_ids(self) -> Iterable[int]:
        return list(self._inner.get_node_ids())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [] if self._broken else self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._pulls += 1
        return [] if self._pulls % 2 else self._inner.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        raise AssertionError("not to be used")


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull that brings nothing is tried again at once."""
    monkeypatch.setattr(wrapped, "POLL_SECONDS", 0.0)


def started(grid: Grid, **options: Any) -> tuple[Any, Buffered]:
    strategy = server(buffer=2, concurrency=3)
    return strategy.start(grid, array_record({"x": torch.zeros(2)}), num_rounds=5, **options), strategy


def test_start_needs_nothing_but_push_and_pull() -> None:
    tested: list[int] = []
    result, _ = started(Plain(6), evaluate_fn=lambda number, arrays: tested.append(number))
    other, _ = started(SimulationGrid(squares_app(), 6, seed=SEED))
    assert tested == [0, 1, 2, 3, 4, 5] and sorted(result.train_metrics_clientapp) == [1, 2, 3, 4, 5]
    assert result.arrays["x"].numpy().tolist() == other.arrays["x"].numpy().tolist()


def test_a_grid_that_can_send_nothing_is_told() -> None:
    with pytest.raises(FedlabError, match="none of 3 messages could be sent"):
        started(Plain(6, broken=True))
