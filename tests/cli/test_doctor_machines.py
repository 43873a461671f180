"""What `fedlab doctor` says of workers and GPUs, of machines that are only told about."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray

from fedlab import doctor, machines
from fedlab.errors import BackendError
from fedlab.runtime.ray.outlook import Node, Outlook
from fedlab.scenario import Scenario, load

SMALLEST: dict[str, Any] = {"schema": 1, "name": "small", "task": {"dataset": "digits", "model": "mlp"}}


def scenario(**runtime: Any) -> Scenario:
    return load(SMALLEST | {"runtime": runtime})


def said(found: Iterator[doctor.Finding]) -> list[str]:
    return [f"{one.status} | {one.topic} | {one.value} | {one.advice}" for one in found]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 8 CPUs and 2 GPUs, by Ray's count and torch's."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 8, "GPU": 2}')
    monkeypatch.setattr(machines, "_torch_gpus", lambda: 2)


def cluster(*nodes: Node, version: str = ray.__version__) -> Outlook:
    return Outlook("10.0.0.1:6379", version, platform.python_version(), nodes)


def node(address: str, cpus: float, gpus: float, free: float = 1.0) -> Node:
    has = {"CPU": cpus, "GPU": gpus}
    return Node(address, has, {kind: free * value for kind, value in has.items()})


def test_how_many_workers_share_a_gpu(two_gpus: None) -> None:
    """2 GPUs of 4 quarters are 8 workers, for which there are 8 CPUs; of tenths, CPUs are what is short."""
    told = said(machines.machines(scenario(num_gpus=0.25)))
    assert told[0] == "ok | Ray, this machine | 8 CPU, 2 GPU | "
    assert "0.25: 4 on one GPU, 8 in all; 0.1: 10 on one GPU, 8 in all" in told[1]
    assert told[2] == "ok | scenario small | 8 workers of 1 CPU and 0.25 GPU; there is room for 8 | "
    assert len(told) == 3


@pytest.mark.parametrize(
    ("runtime", "why"),
    [
        ({"num_gpus": 4}, "1 worker of 1 CPU and 4 GPU asked for, but this machine has 8 CPU and 2 GPU"),
        ({"workers": 9}, "9 workers of 1 CPU and 0 GPU asked for, but this machine has 8 CPU and 2 GPU"),
        ({"num_cpus": 16.0}, "1 worker of 16 CPU"),
    ],
)
def test_why_nothing_would_start(two_gpus: None, runtime: dict[str, Any], why: str) -> None:
    told = said(machines.machines(scenario(**runtime)))
    assert told[-1].startswith("fail | scenario small | nothing would start: ") and why in told[-1]


def test_gpus_that_torch_cannot_use(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "_torch_gpus", lambda: 0)
    told = said(machines.machines(scenario(num_gpus=1)))
    assert any(line.startswith("note | GPUs of Ray | Ray counts 2, torch can use 0") for line in told)
    assert "nothing would start: runtime.num_gpus = 1, but torch can use no GPU here" in told[-1]


def test_a_gpu_left_idle_and_a_run_without_ray(two_gpus: None) -> None:
    assert said(machines.machines(scenario()))[-1].startswith("note | scenario small | no worker uses a GPU")
    assert (
        "clients train in one process on the CPU" in said(machines.machines(scenario(executor="inline")))[-1]
    )


def test_a_cluster_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = next(one.address for found in psutil.net_if_addrs().values() for one in found)
    there = cluster(node(mine, 4, 0), node("10.0.0.2", 4, 1), node("10.0.0.3", 16, 2))
    monkeypatch.setattr(machines, "outlook", lambda address: there)
    asked = scenario(num_gpus=0.5, workers=4, placement="spread", address="10.0.0.1:6379")
    told = said(machines.machines(asked))
    assert told[0].startswith("ok | Ray cluster | 3 nodes at 10.0.0.1:6379: 24 CPU, 3 GPU; Ray ")
    assert told[2] == "ok | node 10.0.0.2 | 4 CPU, 1 GPU; 4 CPU, 1 GPU free | "
    assert told[-1] == (
        "ok | scenario small | 4 workers of 1 CPU and 0.5 GPU, on as many nodes as Ray can"
        ' (runtime.placement = "spread"); there is room for 2 on 10.0.0.2, 4 on 10.0.0.3 | '
    )


def test_a_cluster_that_is_taken_elsewhere_or_of_another_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = cluster(node("10.0.0.2", 4, 1, free=0.0))
    monkeypatch.setattr(machines, "outlook", lambda address: busy)
    told = said(machines.machines(scenario(address="auto", wait=600.0, num_gpus=1)))
    assert any("this machine is none of its nodes" in line and "--num-cpus=0" in line for line in told)
    assert "others hold the cluster" in told[-1] and "would wait 600 seconds" in told[-1]
    monkeypatch.setattr(machines, "outlook", lambda address: cluster(version="1.0.0"))
    assert said(machines.machines(scenario(address="auto"))) == [
        "fail | Ray cluster | the Ray cluster at 10.0.0.1:6379 runs Ray 1.0.0 on Python"
        f" {platform.python_version()}, this process Ray {ray.__version__} on Python"
        f" {platform.python_version()}; both must be the same on every machine. Install the cluster's"
        " versions here, or these there, and start the cluster again (`ray stop`, `ray start`) | "
    ]


def test_a_cluster_that_is_gone_matters_to_those_who_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(address: str) -> Outlook:
        raise BackendError(f"no Ray cluster at {address}")

    monkeypatch.setattr(machines, "outlook", gone)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert said(machines.machines()) == ["note | Ray cluster | no Ray cluster at auto | "]
    assert said(machines.machines(scenario(address="auto")))[0].startswith("fail | Ray cluster")


def test_patch_levels_count_as_they_do_for_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    major, minor, _ = platform.python_version_tuple()
    other = Outlook("h:1", ray.__version__, f"{major}.{minor}.999", ())
    with pytest.raises(BackendError, match=rf"Python {major}\.{minor}\.999"):
        other.expect_same_versions()
    monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
    other.expect_same_versions()


def test_the_command_takes_a_scenario(fedlab: Any, two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ())
    monkeypatch.setattr(doctor, "plugged", lambda: iter(()))
    monkeypatch.setattr(doctor, "data_sets", lambda: iter(()))
    monkeypatch.setattr(doctor, "rival", lambda: iter(()))
    answer = fedlab("doctor", "quickstart", "--set", "runtime.num_gpus=0.5", "--json")
    assert answer.code == 0
    assert answer.json[-1]["value"] == "4 workers of 1 CPU and 0.5 GPU; there is room for 4"
    answer = fedlab("doctor", "quickstart", "--set", "runtime.num_gpus=3")
    assert answer.code == 6 and "nothing would start: 1 worker of 1 CPU and 3 GPU" in answer.out
    answer = fedlab("doctor", "--set", "runtime.num_gpus=3")
    assert answer.code == 2 and "expected fedlab doctor SCENARIO" in answer.err
