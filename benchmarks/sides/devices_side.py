"""fedlab with so many registered devices: `python -m benchmarks.sides.devices_side COUNT`.

Answers `N` with N rounds of cohorts of 100 (the small MLP's clients), and says with it how long it
took until the first messages were ready, and how much memory the process has taken since before.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import torch
from flwr.app import ArrayRecord, ConfigRecord
from numpy.typing import NDArray

from benchmarks.sides.fedlab_side import WARM_UP, config_of, task_of
from benchmarks.sides.serve import serve
from benchmarks.work import WORKS
from fedlab.clients import LocalRule
from fedlab.clients.app import CohortApp
from fedlab.clients.stacking import chunking
from fedlab.runtime import GuardedGrid, SimulatedFleet, SimulationGrid, TappedGrid, quiet_logger
from fedlab.runtime.times import LogNormal
from fedlab.strategies import SGD, as_aggregator, fedavg
from fedlab.strategies.aggregators import weighted_mean

COHORT = 100


class Shared(Sequence[NDArray[np.int64]]):
    """Record ids of `count` clients, which share those of the work in turn."""

    def __init__(self, count: int, owners: Sequence[NDArray[np.int64]]) -> None:
        self.count, self.owners = count, owners

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, client: Any) -> Any:
        return self.owners[client % len(self.owners)]


def main() -> None:
    count = int(sys.argv[1])
    quiet_logger()
    torch.set_num_threads(1)
    work, process = WORKS["mlp"], psutil.Process()
    task, config = task_of(work), config_of(work)
    owners = list(np.arange(work.clients * work.records).reshape(work.clients, work.records))
    before, begin = process.memory_info().rss, time.perf_counter()
    model = task.model(0)
    cut = chunking(model, config, work.records, COHORT)
    app = CohortApp(
        task, Shared(count, owners), LocalRule(), config, seed=0, stacked=cut.stacked, chunk=cut.size
    )
    fleet = SimulatedFleet(count, time=LogNormal(), dropout=0.05)
    simulation = SimulationGrid(app, fleet, chunk=cut.size)
    grid = TappedGrid(GuardedGrid(simulation), lambda message, reply: None)
    strategy = fedavg(
        aggregator=as_aggregator(weighted_mean),
        optimizer=SGD(),
        cohort=COHORT,
        seed=0,
        parameters=model.parameter_names,
    )
    arrays = ArrayRecord(model.state())
    first = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
    start = time.perf_counter() - begin
    assert len(first) == COHORT and isinstance(grid.get_node_ids(), range)

    def rounds(amount: int) -> dict[str, float]:
        strategy.start(grid, arrays, num_rounds=amount)
        return {"start": start, "grown_mb": (process.memory_info().rss - before) / 1e6}

    serve(rounds, warm_up=WARM_UP)


if __name__ == "__main__":
    main()
