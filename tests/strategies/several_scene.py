"""Six clients that hold records of two small tasks, and servers for both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord, Message
from torch import nn

from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import CohortApp
from fedlab.clients.several import SeveralApp, joined
from fedlab.runtime import SimulationGrid
from fedlab.runtime.arrays import array_record
from fedlab.runtime.devices import SimulatedFleet
from fedlab.strategies import SGD, Learner, as_aggregator
from fedlab.strategies.aggregators import mean
from fedlab.strategies.several import TaskServer
from fedlab.tasks import Dataset, Task

CLIENTS = 6
CONFIG = ClientConfig(batch_size=4, local_steps=2, learning_rate=0.1)
TIMES = (1.0, 1.7, 2.3, 3.1, 4.7, 7.9)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def deep() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"linear": linear, "deep": deep}


def task(network: Callable[[], nn.Module], seed: int = 0) -> Task:
    rng = np.random.default_rng(seed)
    y = np.arange(72) % 3
    x = np.clip(rng.random((72, 1, 4, 4)) * 0.5 + y[:, None, None, None] * 0.2, 0, 1).astype(np.float32)
    data = Dataset("small", x, y.astype(np.int64), 3, source="made by the tests", synthetic=True)
    return Task(train=data, test=data, network=network)


def client_app(label: str, rule: LocalRule | None = None) -> CohortApp:
    owners = np.array_split(np.arange(72), CLIENTS)
    seed = list(NETWORKS).index(label) + 1
    return CohortApp(task(NETWORKS[label]), owners, rule or LocalRule(), CONFIG, seed)


def server(label: str) -> TaskServer:
    model = task(NETWORKS[label]).model(1)
    learner = Learner(as_aggregator(mean), SGD(0.5), model.parameter_names, 7)
    return TaskServer(learner, rate=CONFIG.learning_rate, steps=2.0)


def both() -> dict[str, TaskServer]:
    return {label: server(label) for label in NETWORKS}


def start() -> ArrayRecord:
    """The models of both tasks as one record."""
    states = {label: task(make).model(1).state() for label, make in NETWORKS.items()}
    return array_record(joined(states))


class Watched(SimulationGrid):
    """Remembers every message, and when it was sent and answered."""

    def __init__(self, times: Sequence[float] = TIMES, dropout: float = 0.0) -> None:
        app = SeveralApp({label: client_app(label) for label in NETWORKS}, {"linear": 4, "deep": 4})
        super().__init__(app, SimulatedFleet(CLIENTS, time=list(times), dropout=dropout), chunk=4)
        self.log: list[tuple[str, Message, float]] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        outgoing = list(messages)
        ids = super().push_messages(outgoing)
        self.log += [("sent", message, self.now) for message in outgoing]
        return ids

    def pull_until(self, message_ids: Iterable[str], deadline: float) -> list[Message]:
        replies = super().pull_until(message_ids, deadline)
        self.log += [("back", reply, self.now) for reply in replies]
        return replies


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
