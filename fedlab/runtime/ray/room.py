"""How many workers there is room for: on this machine before Ray is started, on a cluster's nodes after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from ray._private.resource_and_label_spec import ResourceAndLabelSpec

from fedlab.errors import BackendError

Resources = dict[str, float]
"""What one node has, by Ray's names: "CPU", "GPU"."""


def own_resources() -> Resources:
    """What Ray would find on this machine, overrides in the environment included."""
    found: Resources = ResourceAndLabelSpec().resolve(is_head=True).to_resource_dict()
    return found


def fits(node: Resources, num_cpus: float, num_gpus: float) -> int:
    """How many workers of that size a node holds."""
    workers = math.floor(node.get("CPU", 0.0) / num_cpus + 1e-9)
    if num_gpus > 0:
        gpus = math.floor(node.get("GPU", 0.0))
        shares = math.floor(1 / num_gpus + 1e-9)  # a worker's share of a GPU lies on one device
        workers = min(workers, gpus * shares if num_gpus < 1 else math.floor(gpus / num_gpus))
    return workers


def holdings(nodes: Sequence[Resources]) -> str:
    """The nodes' resources, for an error message."""
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    where = "this machine has" if len(nodes) == 1 else f"the cluster's {len(nodes)} nodes have"
    return f"{where} {cpus:g} CPU and {gpus:g} GPU"


def expect_room(
    nodes: Sequence[Resources], num_cpus: float, num_gpus: float, workers: int | Literal["auto"]
) -> None:
    """Refuse what can never be placed.

    Raises:
        BackendError: the nodes, all idle, hold fewer workers than asked for ("auto": none).
    """
    wanted = 1 if workers == "auto" else workers
    if sum(fits(node, num_cpus, num_gpus) for node in nodes) < wanted:
        raise BackendError(
            f"{wanted} worker{'s' if wanted > 1 else ''} of {num_cpus:g} CPU and {num_gpus:g} GPU asked"
            f" for, but {holdings(nodes)}; lower runtime.workers, runtime.num_cpus or runtime.num_gpus"
        )
