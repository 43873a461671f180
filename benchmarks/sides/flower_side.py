"""Flower's own engine: `run_simulation` on its Ray backend, start-up left out.

    python -m benchmarks.sides.flower_side train WORK WORKERS   N: N rounds of flwr's FedAvg
    python -m benchmarks.sides.flower_side empty WORK WORKERS   N: one round of N messages

The ServerApp stays in its main function and measures as often as it is asked to. WORKERS is 0 for
`run_simulation` as it comes; otherwise a client takes one CPU, and Ray is told that there are WORKERS
of them (the driver's own threads are not held to that).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
)

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.server.superlink.fleet.vce.backend.backend import BackendConfig
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.sides.flower_app import empty_app, training_app
from benchmarks.sides.serve import serve
from benchmarks.work import WORKS, Work


def trainer(grid: Grid, work: Work) -> Callable[[int], dict[str, Any]]:
    """A function that trains so many rounds of cohorts."""
    arrays = ArrayRecord(work.network().state_dict())

    def rounds(count: int) -> dict[str, Any]:
        updates = 0

        def counted(contents: list[RecordDict], weight: str) -> MetricRecord:
            nonlocal updates
            updates += len(contents)
            return MetricRecord()

        strategy = FedAvg(
            fraction_train=work.cohort / work.clients,
            fraction_evaluate=0.0,
            min_available_nodes=work.clients,
            train_metrics_aggr_fn=counted,
        )
        strategy.start(grid, arrays, num_rounds=count)
        return {"updates": updates}

    return rounds


def messenger(grid: Grid, work: Work) -> Callable[[int], None]:
    """A function that sends the model to so many nodes and waits for the answers."""
    arrays = ArrayRecord(work.network().state_dict())

    def exchange(count: int) -> None:
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
        nodes = sorted(grid.get_node_ids())[:count]
        messages = [Message(content, dst_node_id=node, message_type="train") for node in nodes]
        assert len(list(grid.send_and_receive(messages))) == count

    return exchange


def main() -> None:
    kind, name, workers = sys.argv[1:]
    work = WORKS[name]
    server = ServerApp()

    @server.main()
    def serving(grid: Grid, context: Context) -> None:
        if kind == "train":
            serve(trainer(grid, work), warm_up=1)
        else:
            while len(list(grid.get_node_ids())) < work.clients:
                time.sleep(0.1)
            serve(messenger(grid, work), warm_up=10)

    logging.getLogger("flwr").setLevel(logging.ERROR)
    tuned: BackendConfig = {
        "init_args": {"num_cpus": int(workers), "include_dashboard": False, "log_to_driver": False},
        "client_resources": {"num_cpus": 1},
    }
    run_simulation(
        server,
        training_app(name) if kind == "train" else empty_app(),
        num_supernodes=work.clients,
        backend_config=tuned if int(workers) else None,
    )


if __name__ == "__main__":
    main()
