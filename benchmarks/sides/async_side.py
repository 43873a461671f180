"""FedBuff over a large fleet: `python -m benchmarks.sides.async_side ours|plain DEVICES STEPS WARM_UP`.

Answers `N` with N uploads of the same schedule: 1,000 clients at a time, K = 10, polynomial weights, devices
of half-normal speed and 16 records each of their own, so many full-batch steps of the 64-64-10 MLP.

`ours` is fedlab as in a run: Flower messages, guard and tap. `plain` is what one would write by hand: a
heap of events; at each, one client is trained with PyTorch from the model that it was sent, and its update
goes into the buffer. No messages, no guard. Both draw the same clients from the same fleet.
"""

from __future__ import annotations

import heapq
import resource
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import torch
from flwr.app import ArrayRecord, Message
from torch import Tensor, nn

from benchmarks.sides.serve import serve
from benchmarks.work import mlp
from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import CohortApp
from fedlab.clients.stacking import chunking
from fedlab.runtime import GuardedGrid, SimulatedFleet, SimulationGrid, TappedGrid, quiet_logger
from fedlab.runtime.devices import Errand
from fedlab.runtime.times import HalfNormal
from fedlab.strategies import SGD, Learner, as_aggregator
from fedlab.strategies.aggregators import mean
from fedlab.strategies.asynchronous import Buffered
from fedlab.strategies.asynchronous.recruiting import Recruiting
from fedlab.strategies.asynchronous.staleness import Polynomial
from fedlab.strategies.sampling import uniform
from fedlab.tasks import Task
from fedlab.tasks.datasets.gaussians import gaussians
from fedlab.tasks.population import drawn

CONCURRENCY, BUFFER, RECORDS, RATE = 1_000, 10, 16, 0.1
SEED = 0

State = dict[str, Tensor]


class Population:
    """The devices, what they hold, and what they train."""

    def __init__(self, devices: int, steps: int) -> None:
        self.steps = steps
        train, test = gaussians(features=64, test_records=10)
        self.task = Task(train=train, test=test, network=mlp)
        generator = np.random.default_rng(SEED)
        self.owners = drawn(train, devices, generator=generator, median=RECORDS, sigma=0.0)
        self.fleet = SimulatedFleet(devices, time=HalfNormal(scale=10.0))
        self.model = self.task.model(SEED)
        self.recruiting = Recruiting(uniform, SEED)

    def ours(self) -> Callable[[int], dict[str, Any]]:
        """A function that goes on for so many uploads."""
        config = ClientConfig(batch_size=0, local_steps=self.steps, learning_rate=RATE)
        cut = chunking(self.model, config, RECORDS, CONCURRENCY)
        app = CohortApp(
            self.task, self.owners, LocalRule(), config, SEED, stacked=cut.stacked, chunk=cut.size
        )
        uploads = 0

        def seen(message: Message, reply: Message) -> None:
            nonlocal uploads
            uploads += not reply.has_error()

        grid = TappedGrid(GuardedGrid(SimulationGrid(app, self.fleet, seed=SEED, chunk=cut.size)), seen)
        names = self.model.parameter_names
        strategy = Buffered(
            Learner(as_aggregator(mean), SGD(), names, SEED),
            self.recruiting,
            buffer=BUFFER,
            concurrency=CONCURRENCY,
            staleness=Polynomial(),
        )
        made = strategy.run_rounds(grid, ArrayRecord(self.model.state()), last=sys.maxsize)

        def go_on(count: int) -> dict[str, Any]:
            before, last = uploads, None
            for _ in range(count // BUFFER):
                last = next(made)
            assert uploads - before >= count // BUFFER * BUFFER - 1 and last is not None
            self.state = last.arrays.to_torch_state_dict()
            return {"chunk": cut.size, "now": grid.now, "mean_staleness": strategy.facts()["mean_staleness"]}

        return go_on

    def plain(self) -> Callable[[int], dict[str, Any]]:
        """The same by an event loop."""
        net, data = mlp().train(), self.task.train
        self.state: State = {name: value.clone() for name, value in self.model.state().items()}
        queue: list[tuple[float, int, int, int, State]] = []
        busy: set[int] = set()
        held: list[tuple[State, float]] = []
        nodes, now, sent, version, stale = range(self.fleet.count), 0.0, 0, 0, [0, 0]

        def recruit(size: int) -> None:
            nonlocal sent
            for device in self.recruiting(nodes, size, busy.__contains__, len(busy), None):
                sent += 1
                visit = self.fleet.visit(Errand(device, sent, now), SEED)
                heapq.heappush(queue, (visit.start + visit.seconds, sent, device, version, self.state))
                busy.add(device)

        def trained(device: int, start: State) -> State:
            ids = self.owners[device]
            x, y = data.images(ids), data.labels(ids)
            net.load_state_dict(start)
            optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
            for _ in range(self.steps):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x), y).backward()
                optimizer.step()
            return {name: value - start[name] for name, value in net.state_dict().items()}

        def go_on(count: int) -> dict[str, Any]:
            nonlocal now, version
            for _ in range(count):
                recruit(CONCURRENCY - len(queue))
                now, _, device, born, start = heapq.heappop(queue)
                busy.remove(device)
                stale[0], stale[1] = stale[0] + version - born, stale[1] + 1
                held.append((trained(device, start), (1.0 + version - born) ** -0.5))
                if len(held) == BUFFER:
                    self.state = {
                        name: value + sum(weight * delta[name] for delta, weight in held) / BUFFER
                        for name, value in self.state.items()
                    }
                    held.clear()
                    version += 1
            return {"now": now, "mean_staleness": stale[0] / stale[1]}

        return go_on


def peak_mb() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    kind, devices, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    quiet_logger()
    torch.set_num_threads(1)
    process = psutil.Process()
    go_on = getattr(Population(devices, steps), kind)()

    def measured(count: int) -> dict[str, Any]:
        found: dict[str, Any] = go_on(count)
        return found | {"rss_mb": process.memory_info().rss / 1e6, "peak_mb": peak_mb()}

    serve(measured, warm_up=int(sys.argv[4]))


if __name__ == "__main__":
    main()
