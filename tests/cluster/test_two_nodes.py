"""Scenarios on a Ray cluster of two nodes, which are processes on this machine; `make test-cluster`.

What the executor does on such a cluster is in tests/runtime, with the tests that always run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from two_nodes import Losing, result

from fedlab.errors import BackendError
from fedlab.runtime.ray.outlook import outlook

pytestmark = [pytest.mark.ray, pytest.mark.cluster]

SPREAD: dict[str, Any] = {"workers": 2, "placement": "spread"}
"""One on each node."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=2)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the scenario comes to in this process."""
    return result(tmp_path_factory.mktemp("inline") / "run", executor="inline")


def test_a_scenario_runs_on_both_nodes_and_leaves_the_cluster_running(
    cluster: Cluster, inline: dict[str, Any], tmp_path: Path
) -> None:
    found = result(tmp_path / "run", address=cluster.address, **SPREAD)
    assert found == inline
    assert not ray.is_initialized(), "the cluster is left"
    there = outlook(cluster.address)
    assert sorted(node.has["CPU"] for node in there.nodes) == [1.0, 2.0], "and goes on"
    assert [node.free for node in there.nodes] == [node.has for node in there.nodes]


def test_a_node_that_dies_in_the_middle_changes_nothing(
    cluster: Cluster, inline: dict[str, Any], tmp_path: Path
) -> None:
    """What its workers had is done again on the node that is left."""
    assert result(tmp_path / "run", Losing(cluster), address=cluster.address, **SPREAD) == inline
    assert len(outlook(cluster.address).nodes) == 1


def test_too_little_is_refused_with_what_there_is(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"5 workers of 1 CPU .* asked for, but .* has 1 CPU and 0 GPU"):
        result(tmp_path / "run", address=cluster.address, workers=5)
