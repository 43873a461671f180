"""300 rounds of 20 clients on two Ray workers: nothing may grow.

After each tenth round: resident memory of the driver and of its workers, file descriptors and
threads of the driver, and the shared memory that Ray's raylet holds. The slope of memory is a
least-squares line through the rounds after warm-up; the rest must be the same in the last third as
in the second.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import psutil
import torch
from flwr.app import ArrayRecord, MetricRecord

from benchmarks.harness import Result, Row, finish
from benchmarks.sides.fedlab_side import Federation
from benchmarks.sides.serve import versions
from benchmarks.work import WORKS, Work
from fedlab.runtime import RayExecutor, quiet_logger

ROUNDS, EVERY, WARM_UP = 300, 10, 100
WORK = Work(WORKS["mlp"].network, (1, 8, 8), clients=100, cohort=20, records=16, batch=0, epochs=5)


def sample(round: int) -> dict[str, float]:
    """What this process, its Ray workers and the raylet hold now."""
    driver = psutil.Process()
    family = driver.children(recursive=True)
    workers = [process for process in family if _title(process).startswith("ray::")]
    raylets = [process for process in family if process.name() == "raylet"]
    return {
        "round": round,
        "driver_mb": driver.memory_info().rss / 1e6,
        "workers_mb": sum(_private(worker) for worker in workers) / 1e6,
        "workers": len(workers),
        "fds": driver.num_fds(),
        "threads": driver.num_threads(),
        "shared_mb": sum(_shared(raylet) for raylet in raylets) / 1e6,
    }


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _private(process: psutil.Process) -> int:
    """Resident bytes without the object store, which is counted once, in the raylet."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def _shared(process: psutil.Process) -> int:
    """Resident bytes of maps in /dev/shm."""
    return sum(one.rss for one in process.memory_maps() if one.path.startswith("/dev/shm"))


def slope(samples: list[dict[str, float]], key: str) -> float:
    """Growth per round after warm-up."""
    late = [one for one in samples if one["round"] >= WARM_UP]
    line = np.polyfit([one["round"] for one in late], [one[key] for one in late], 1)
    return float(line[0])


def growth(samples: list[dict[str, float]], key: str) -> float:
    """Median of the last third less that of the second."""
    third = (ROUNDS - WARM_UP) // 2
    middle = [one[key] for one in samples if WARM_UP <= one["round"] < WARM_UP + third]
    last = [one[key] for one in samples if one["round"] >= WARM_UP + third]
    return float(np.median(last) - np.median(middle))


def soak(executor: RayExecutor, rounds: int, every: int) -> list[dict[str, float]]:
    """A sample after each `every`-th round."""
    federation = Federation(WORK, executor)
    samples: list[dict[str, float]] = []

    def after(round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if round and round % every == 0:
            samples.append(sample(round))
        return None

    federation.strategy("ours").start(
        federation.grid, ArrayRecord(federation.model.state()), num_rounds=rounds, evaluate_fn=after
    )
    return samples


def main() -> int:
    quiet_logger()
    torch.set_num_threads(1)
    executor = RayExecutor(workers=2)
    try:
        samples = soak(executor, ROUNDS, EVERY)
    finally:
        executor.close()
    rows = [
        Row("driver's memory per round", slope(samples, "driver_mb"), "MB", at_most=0.1),
        Row("workers' memory per round", slope(samples, "workers_mb"), "MB", at_most=0.1),
        Row("file descriptors", growth(samples, "fds"), "more", at_most=0.0),
        Row("threads", growth(samples, "threads"), "more", at_most=0.0),
        Row("shared memory", growth(samples, "shared_mb"), "MB more", at_most=1.0),
        Row("driver's memory in the end", samples[-1]["driver_mb"], "MB"),
        Row("workers' private memory in the end", samples[-1]["workers_mb"], "MB"),
    ]
    measurements: dict[str, Any] = {"samples": samples}
    result = Result(
        "soak",
        f"{ROUNDS} rounds of {WORK.cohort} clients on two Ray workers",
        rows,
        measurements=measurements,
        versions=versions(),
    )
    return finish(result)


if __name__ == "__main__":
    sys.exit(main())
