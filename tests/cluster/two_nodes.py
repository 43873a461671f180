"""A tiny scenario with an attack, what it comes to, and a listener that takes a node away while it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

import fedlab
from fedlab.progress import Quiet

SCENARIO: dict[str, Any] = {
    "schema": 1,
    "name": "two-nodes",
    "task": {"dataset": "digits", "model": {"name": "mlp", "width": 16}},
    "clients": {"count": 6, "batch_size": 1, "local_steps": 1},
    "strategy": {"rounds": 4, "cohort": 6},
    "audit": {"victims": 2},
    "attacks": [{"name": "linear-layer"}],
}


def result(out: Path, progress: Quiet | None = None, **runtime: Any) -> dict[str, Any]:
    """The hash of the weights, and what the attack recovered."""
    fedlab.run(SCENARIO | {"runtime": {"chunk": 2, **runtime}}, out=out, progress=progress)
    manifest = json.loads((out / "manifest.json").read_text())
    attacked = json.loads(next((out / "attacks").rglob("linear-layer.json")).read_text())
    return {"weights": [one["weights_sha256"] for one in manifest["cells"]], "attacked": attacked}


class Losing(Quiet):
    """Takes a node away when the second round is done."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def advance(self, job: str, done: int, note: str = "") -> None:
        if job.startswith("train") and done == 2:
            self.cluster.remove_node(self.cluster.worker_nodes.copy().pop(), allow_graceful=False)
