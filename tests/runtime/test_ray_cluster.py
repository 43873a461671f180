"""RayExecutor on a cluster of two nodes: placement, GPUs, a node that is lost, a node that joins.

The nodes are processes on this machine, their GPUs are numbers that Ray counts.
"""

import time
from collections.abc import Iterator

import pytest
import ray
from flwr.app import Message
from ray.cluster_utils import Cluster

from fedlab.errors import BackendError
from fedlab.runtime import RayExecutor, SimulationGrid
from tests.runtime.apps import weights
from tests.runtime.ray_apps import Fault, faulty_app, none, on_node, zeros

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    head = {"num_cpus": 1, "num_gpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, num_gpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def run(executor: RayExecutor, fault: Fault = none, chunk: int = 1) -> list[Message]:
    """Four clients in chunks."""
    grid = SimulationGrid(faulty_app(fault), 4, executor, chunk=chunk)
    return grid.send_and_receive(zeros(grid.get_node_ids()))


def up(executor: RayExecutor, workers: int) -> None:
    """Run until that many workers are up."""
    deadline = time.monotonic() + 60.0
    while len(executor.places) != workers and time.monotonic() < deadline:
        run(executor)
    assert len(executor.places) == workers


def test_a_cluster_is_joined_spread_over_lost_in_part_and_grown_again(cluster: Cluster) -> None:
    executor = RayExecutor(placement="spread", address=cluster.address)
    try:
        up(executor, 2)
        nodes = {place.node for place in executor.places}
        assert len(nodes) == 2, "one worker on each node"
        here = ray.get_runtime_context().get_node_id()
        replies = run(executor, on_node((nodes - {here}).pop()))
        assert [weights(reply) for reply in replies] == [[c + 1.0] * 2 for c in range(4)]
        assert {reply.content["where"]["node"] for reply in replies} == {here}
        up(executor, 1)
        cluster.add_node(num_cpus=1, num_gpus=1)
        up(executor, 2)
    finally:
        executor.close()
    assert not ray.is_initialized()
    ray.init(address=cluster.address, log_to_driver=False)
    assert ray.cluster_resources()["CPU"] == 2.0, "a cluster that was joined is left running"


def test_workers_share_the_gpus_and_know_which_is_theirs(cluster: Cluster) -> None:
    assert ray.is_initialized(), "by the test before this one"
    executor = RayExecutor(num_cpus=0.5, num_gpus=0.5)
    try:
        up(executor, 4)
        assert sorted(place.gpus for place in executor.places) == [("0",)] * 4
        assert len({place.node for place in executor.places}) == 2
        where = [reply.content["where"] for reply in run(executor)]
        assert {one["visible"] for one in where} == {"0"}
        assert all(list(one["gpus"]) == ["0"] for one in where)
        assert {one["device"] for one in where} <= {"cpu", "cuda:0"}
    finally:
        executor.close()
    with pytest.raises(BackendError, match=r"1 worker of 1 CPU and 2 GPU .* the cluster's 2 nodes have"):
        RayExecutor(num_gpus=2)
    assert ray.is_initialized(), "what somebody else connected stays connected"
