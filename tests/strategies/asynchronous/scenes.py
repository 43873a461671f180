"""Asynchronous servers over the quadratics of `tests.clients.quadratics`, and a Grid that keeps the books."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from fedlab.clients import LocalRule
from fedlab.clients.config import ClientConfig
from fedlab.runtime import SimulationGrid, WrappedGrid
from fedlab.runtime.devices import Fleet, SimulatedFleet
from fedlab.strategies import SGD, Learner, as_aggregator
from fedlab.strategies.aggregators import Aggregator, weighted_mean
from fedlab.strategies.asynchronous import Buffered
from fedlab.strategies.asynchronous.recruiting import Recruiting
from fedlab.strategies.asynchronous.staleness import Constant, Staleness
from fedlab.strategies.sampling import Sampler, uniform
from fedlab.strategies.server_optimizers import ServerOptimizer
from tests.clients.quadratics import CENTRES, CURVATURES, FIVE, Federation

SEED = 3


def server(
    *,
    buffer: int,
    concurrency: int,
    staleness: Staleness | None = None,
    aggregator: Aggregator | None = None,
    optimizer: ServerOptimizer | None = None,
    rule: LocalRule | None = None,
    parameters: Sequence[str] = ("x",),
    sampler: Sampler = uniform,
    config: ClientConfig | None = None,
    records: Sequence[int] | None = None,
    **options: Any,
) -> Buffered:
    """FedBuff with what it is not given as plain as can be."""
    learner = Learner(
        aggregator or as_aggregator(weighted_mean),
        optimizer or SGD(),
        parameters,
        SEED,
        server=(rule or LocalRule()).server,
        config=config,
    )
    return Buffered(
        learner,
        Recruiting(sampler, SEED, records),
        buffer=buffer,
        concurrency=concurrency,
        staleness=staleness or Constant(),
        **options,
    )


def federation(
    fleet: Fleet | Sequence[float],
    rule: LocalRule | None = None,
    *,
    config: ClientConfig = FIVE,
    copies: Sequence[int] | None = None,
    **options: Any,
) -> tuple[Federation, Buffered]:
    """One quadratic per device, in turn; a fleet may be the seconds that each device takes."""
    made = SimulatedFleet(len(fleet), time=list(fleet)) if isinstance(fleet, Sequence) else fleet
    clients = [i % 3 for i in range(made.count)]
    found = Federation(rule or LocalRule(), config, clients=clients, copies=copies or [1] * made.count)
    found.grid = SimulationGrid(found.app, made, seed=SEED, chunk=3)
    strategy = server(rule=rule, config=config, **options)
    found.strategy = strategy  # type: ignore[assignment]
    return found, strategy


def moved(client: int, x: float, config: ClientConfig = FIVE) -> float:
    """Δ_i(x): K steps of gradient descent take x the share 1 − (1 − η a)ᴷ of its way to b."""
    assert config.local_steps is not None
    share = 1.0 - (1.0 - config.learning_rate * CURVATURES[client % 3]) ** config.local_steps
    return float(share * (CENTRES[client % 3] - x))


class Late(NamedTuple):
    """An update, the model that it started from, and how many versions were made meanwhile."""

    client: int
    delta: float
    start: float
    late: int


def event_loop(
    times: Sequence[float],
    step: Callable[[float, list[Late]], float],
    buffer: int,
    versions: int,
    most: int | None = None,
) -> tuple[list[float], list[int]]:
    """All clients train all the time, one event after the other: the model after each update, and the
    staleness of each upload.

    Args:
        step: (x, the buffer) -> the next x.
    """
    x, version = 0.0, 0
    held: list[Late] = []
    models: list[float] = []
    seen: list[int] = []
    queue = [(seconds, order, order, 0.0, 0) for order, seconds in enumerate(times)]
    order = len(queue)
    heapq.heapify(queue)
    while True:
        now, batch = queue[0][0], []
        while queue and queue[0][0] == now:
            batch.append(heapq.heappop(queue))
        for _, _, client, start, born in batch:
            seen.append(version - born)
            if most is not None and seen[-1] > most:
                continue
            held.append(Late(client, moved(client, start), start, seen[-1]))
            if len(held) == buffer:
                x, held, version = step(x, held), [], version + 1
                models.append(x)
                if version == versions:
                    return models, seen
        for client in sorted(one[2] for one in batch):
            heapq.heappush(queue, (now + times[client], order, client, x, version))
            order += 1


class Books(WrappedGrid):
    """Notes who trains when, with which model; a client that is asked while it trains is a failure.

    Attributes:
        asked: (seconds, node, version) of each message.
        most: how many trained at once at most.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.asked: list[tuple[float, int, int]] = []
        self.busy: dict[str, int] = {}
        self.most = 0

    def _sent(self, ids: Sequence[str], messages: Sequence[Message]) -> None:
        for message_id, message in zip(ids, messages, strict=True):
            node = message.metadata.dst_node_id
            assert node not in self.busy.values(), f"node {node} is asked while it trains"
            self.busy[message_id] = node
            version = int(message.content["config"]["server-round"])  # type: ignore[arg-type]
            self.asked.append((self.now, node, version))
        self.most = max(self.most, len(self.busy))

    def _arrived(self, replies: Iterable[Message]) -> list[Message]:
        passed = list(replies)
        for reply in passed:
            del self.busy[reply.metadata.reply_to_message_id]
        return passed

    def cancel(self, message_ids: Iterable[str]) -> None:
        gone = list(message_ids)
        super().cancel(gone)
        for message_id in gone:
            del self.busy[message_id]


def half_normal(count: int, seed: int = 0) -> list[float]:
    """Seconds that `count` devices take: 0.1 + |N(0, 1)|."""
    return [0.1 + abs(float(one)) for one in np.random.default_rng(seed).standard_normal(count)]
