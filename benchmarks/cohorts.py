"""How fast do small clients train, end to end, beside a bare PyTorch loop in the same run?

Work: MLP 64-64-10 (4,810 parameters), 100 clients with 14 digits each, cohorts of 50, 5 full-batch
SGD steps. fedlab does it through FedAvg, Flower messages and the Grid, in this process, with one
torch thread; the bare loop trains one client after the other and averages nothing. Prints client
updates a second and the ratio of each pair of runs; writes benchmarks/results/cohorts.json; exits 1
when the median ratio misses its bar.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import nn

from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import CohortApp
from fedlab.runtime import SimulationGrid, quiet_logger
from fedlab.strategies import SGD, as_aggregator, fedavg
from fedlab.strategies.aggregators import mean
from fedlab.tasks import Task
from fedlab.tasks.datasets.digits import digits

CLIENTS, COHORT, RECORDS, STEPS, ROUNDS, PAIRS, BAR = 100, 50, 14, 5, 10, 5, 1.0


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def through_fedlab(task: Task, owners: list[np.ndarray]) -> float:
    """Client updates a second."""
    config = ClientConfig(batch_size=0, local_steps=STEPS, learning_rate=0.1)
    app = CohortApp(task, owners, LocalRule(), config, seed=0)
    grid = SimulationGrid(app, CLIENTS, seed=0, chunk=COHORT)
    model = task.model(0)
    strategy = fedavg(
        aggregator=as_aggregator(mean),
        optimizer=SGD(),
        cohort=COHORT,
        seed=0,
        parameters=model.parameter_names,
    )
    start = time.perf_counter()
    strategy.start(grid, ArrayRecord(model.state()), num_rounds=ROUNDS)
    return ROUNDS * COHORT / (time.perf_counter() - start)


def bare_loop(task: Task, owners: list[np.ndarray]) -> float:
    """Client updates a second."""
    net = network()
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    start = time.perf_counter()
    for client in range(ROUNDS * COHORT):
        ids = owners[client % CLIENTS]
        x, y = task.train.images(ids), task.train.labels(ids)
        net.load_state_dict(weights)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    return ROUNDS * COHORT / (time.perf_counter() - start)


def main() -> int:
    quiet_logger()
    torch.set_num_threads(1)
    train, test = digits()
    task = Task(train, test, network)
    owners = [np.arange(c * RECORDS, (c + 1) * RECORDS) for c in range(CLIENTS)]
    through_fedlab(task, owners), bare_loop(task, owners)  # warm up
    pairs = [(through_fedlab(task, owners), bare_loop(task, owners)) for _ in range(PAIRS)]
    ratio = statistics.median(ours / bare for ours, bare in pairs)
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    result = {"fedlab": ours, "bare loop": bare, "ratio": ratio, "bar": BAR, "pairs": PAIRS}
    path = Path(__file__).parent / "results" / "cohorts.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"fedlab, end to end   {ours:8.0f} client updates/s")
    print(f"bare PyTorch loop    {bare:8.0f} client updates/s")
    print(f"ratio                {ratio:8.2f}  (bar {BAR:.2f}, median of {PAIRS} pairs)")
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
