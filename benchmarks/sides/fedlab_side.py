"""fedlab end to end: its strategy, Flower messages, the tap, the guard, the simulated Grid.

    python -m benchmarks.sides.fedlab_side train WORK WORKERS STRATEGY   N: N rounds
    python -m benchmarks.sides.fedlab_side empty WORK WORKERS            N: one round of N messages

WORKERS is 0 for training in this process, else the number of Ray workers with one CPU each. STRATEGY
is `ours` or `flwr` (Flower's own FedAvg, unmodified, on our Grid). Chunks are cut by the rule that a
scenario without `runtime.chunk` goes by.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from benchmarks.sides.flower_app import empty_app
from benchmarks.sides.serve import serve
from benchmarks.work import WORKS, Work
from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import CohortApp
from fedlab.clients.stacking import Chunking, chunking
from fedlab.runtime import (
    Executor,
    GuardedGrid,
    InlineExecutor,
    SimulationGrid,
    TappedGrid,
    quiet_logger,
)
from fedlab.strategies import SGD, as_aggregator, fedavg
from fedlab.strategies.aggregators import weighted_mean
from fedlab.tasks import Dataset, Task


def task_of(work: Work) -> Task:
    """The work as a fedlab task."""
    images, labels = work.data()
    data = Dataset("random", images.numpy(), labels.numpy(), 10, source="random", synthetic=True)
    return Task(train=data, test=data, network=work.network)


def config_of(work: Work) -> ClientConfig:
    return ClientConfig(batch_size=work.batch, local_epochs=work.epochs, learning_rate=work.learning_rate)


WARM_UP = 20
"""Rounds after which every frequent shape of stacked clients is recorded."""

DEVICES = 1_000
"""Nodes that messages without work go to."""


class Federation:
    """The clients of a piece of work on our Grid, guarded and tapped as in a run.

    Args:
        device: where they train; cut: how cohorts are, if not by the rule of scenarios.
        rule: how they train, plain SGD unless given.
    """

    def __init__(
        self,
        work: Work,
        executor: Executor,
        *,
        device: str = "cpu",
        cut: Chunking | None = None,
        rule: LocalRule | None = None,
    ) -> None:
        self.work, self.task, config = work, task_of(work), config_of(work)
        self.model = self.task.model(0)
        owners = np.arange(work.clients * work.records).reshape(work.clients, work.records)
        self.cut = cut or chunking(self.model, config, work.records, work.cohort)
        app = CohortApp(
            self.task,
            list(owners),
            rule or LocalRule(),
            config,
            seed=0,
            stacked=self.cut.stacked,
            chunk=self.cut.size,
            device=device,
        )
        self.replies = 0
        self.grid = wrapped(app, work, executor, self.cut.size, self._seen)

    def _seen(self, message: Message, reply: Message) -> None:
        self.replies += not reply.has_error()

    def strategy(self, kind: str) -> Strategy:
        """FedAvg: `ours` or `flwr`."""
        work = self.work
        if kind == "flwr":
            return FedAvg(
                fraction_train=work.cohort / work.clients,
                fraction_evaluate=0.0,
                min_available_nodes=work.clients,
            )
        return fedavg(
            aggregator=as_aggregator(weighted_mean),
            optimizer=SGD(),
            cohort=work.cohort,
            seed=0,
            parameters=self.model.parameter_names,
        )

    def rounds(self, kind: str) -> Callable[[int], dict[str, Any]]:
        """A function that trains so many rounds of cohorts."""
        state = self.model.state()

        def train(count: int) -> dict[str, Any]:
            before = self.replies
            self.strategy(kind).start(self.grid, ArrayRecord(state), num_rounds=count)
            return {"updates": self.replies - before, "chunk": self.cut.size, "stacked": self.cut.stacked}

        return train


def wrapped(
    app: ClientApp, work: Work, executor: Executor, chunk: int, watcher: Callable[[Message, Message], None]
) -> Grid:
    """Our Grid as it stands in a run."""
    return TappedGrid(GuardedGrid(SimulationGrid(app, work.clients, executor, chunk=chunk)), watcher)


def messenger(work: Work, executor: Executor) -> Callable[[int], None]:
    """A function that sends the model to so many nodes and waits for the answers."""
    arrays = ArrayRecord(work.network().state_dict())
    grid = SimulationGrid(empty_app(), DEVICES, executor)

    def exchange(count: int) -> None:
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
        nodes = grid.get_node_ids()[:count]
        messages = [Message(content, dst_node_id=node, message_type="train") for node in nodes]
        assert len(grid.send_and_receive(messages)) == count

    return exchange


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("train", "empty"))
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("workers", type=int)
    parser.add_argument("strategy", choices=("ours", "flwr"), nargs="?", default="ours")
    asked = parser.parse_args()
    quiet_logger()
    torch.set_num_threads(1)
    work = WORKS[asked.work]
    executor = _executor(asked.workers)
    try:
        if asked.kind == "train":
            federation = Federation(work, executor)
            serve(federation.rounds(asked.strategy), warm_up=WARM_UP if federation.cut.stacked else 1)
        else:
            serve(messenger(work, executor), warm_up=DEVICES)
    finally:
        executor.close()


def _executor(workers: int) -> Executor:
    """This process, or so many of Ray's: a machine without Ray can do the first."""
    if not workers:
        return InlineExecutor()
    from fedlab.runtime import RayExecutor

    return RayExecutor(workers=workers)


if __name__ == "__main__":
    main()
