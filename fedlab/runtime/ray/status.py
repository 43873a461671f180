"""Asks a Ray cluster what it is, without joining it; a script of its own.

`status.py HOST:PORT` (or `auto`: what RAY_ADDRESS says, else the cluster that runs on this machine) prints
JSON: its address, Ray and Python versions, and the nodes that are alive with what they have and what of it is
free. Whoever asks waits as long as it likes and then ends this process: a question to something that is no
Ray has no end of its own.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private.services import canonicalize_bootstrap_address
from ray._private.state import GlobalState
from ray._raylet import GcsClient, GcsClientOptions  # type: ignore[attr-defined]  # compiled


def status(address: str) -> dict[str, Any]:
    """What is printed.

    Raises:
        ConnectionError: there is none.
    """
    found = canonicalize_bootstrap_address(address)
    if found is None:
        raise ConnectionError(f"{address} leads to no cluster")
    versions = get_cluster_metadata(GcsClient(address=found))
    state = GlobalState()
    options = GcsClientOptions.create(found, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
    state._initialize_global_state(options)
    free = state.available_resources_per_node()
    nodes = [
        {
            "address": node["NodeManagerAddress"],
            "has": _counted(node["Resources"]),
            "free": _counted(free.get(node["NodeID"], {})),
        }
        for node in state.node_table()
        if node["Alive"]
    ]
    return {
        "address": found,
        "ray": versions["ray_version"],
        "python": versions["python_version"],
        "nodes": nodes,
    }


def _counted(resources: dict[str, float]) -> dict[str, float]:
    return {kind: resources.get(kind, 0.0) for kind in ("CPU", "GPU")}


if __name__ == "__main__":
    try:
        print(json.dumps(status(sys.argv[1])))
    except Exception as error:
        print(str(error).strip().partition("\n")[0] or type(error).__name__, file=sys.stderr)
        sys.exit(1)
