"""What a cluster may lack, and how a run says so; `make test-cluster`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from two_nodes import SCENARIO, Losing, result

import fedlab
from fedlab.errors import BackendError, UsageError
from fedlab.runtime.ray import cluster as joining
from fedlab.runtime.ray import executor

pytestmark = [pytest.mark.ray, pytest.mark.cluster]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=2)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return result(tmp_path_factory.mktemp("inline") / "run", executor="inline")


def test_a_machine_with_other_software_is_refused(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As seen from a driver whose torch is another one."""
    monkeypatch.setattr(executor, "versions", lambda: {"fedlab": "9.9", "torch": "1.0"})
    with pytest.raises(
        BackendError, match=r"the machine [\d.]+ of the Ray cluster has fedlab .*expected 9\.9"
    ):
        result(tmp_path / "run", address=cluster.address)


def test_a_machine_without_fedlab_is_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers find a fedlab first that does not import. They look in the folder of the driver before."""
    (tmp_path / "fedlab").mkdir()
    (tmp_path / "fedlab" / "__init__.py").write_text("raise ImportError('not installed here')\n")
    monkeypatch.chdir(tmp_path)
    there = joining.environment()
    there["PYTHONPATH"] = f"{tmp_path}:{there['PYTHONPATH']}"
    monkeypatch.setattr(joining, "environment", lambda: there)
    with pytest.raises(BackendError, match=r"cannot import fedlab.* not installed here"):
        result(tmp_path / "run", address=cluster.address)


def test_code_of_ones_own_is_sent_with_a_folder(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local rule from a module that the workers' machines do not have."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "ownrules.py").write_text(
        "from fedlab.clients import LocalRule\n\n\nclass OwnRule(LocalRule):\n    pass\n"
    )
    everywhere = joining.environment()
    monkeypatch.setattr(joining, "environment", lambda: everywhere)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    rule = importlib.import_module("ownrules").OwnRule()
    runtime = {"chunk": 2, "address": cluster.address}
    with pytest.raises(BackendError, match=r"cannot import .*No module named 'ownrules'.* runtime\.working"):
        fedlab.run(SCENARIO | {"runtime": runtime}, out=tmp_path / "without", local_rule=rule)
    sent = runtime | {"working_dir": "mine"}
    fedlab.run(SCENARIO | {"runtime": sent}, out=tmp_path / "with", local_rule=rule)
    with pytest.raises(UsageError, match=r'runtime\.working_dir = "other" is no folder here'):
        fedlab.run(
            SCENARIO | {"runtime": sent | {"working_dir": "other"}}, out=tmp_path / "no", local_rule=rule
        )


def test_when_no_node_is_left_that_could_the_run_says_so_and_can_go_on(
    cluster: Cluster, inline: dict[str, Any], tmp_path: Path
) -> None:
    """Workers of 2 CPUs live on the second node alone."""
    out = tmp_path / "run"
    with pytest.raises(
        BackendError, match=r"no room for a worker .* has 1 CPU and 0 GPU, each worker needs"
    ) as lost:
        result(out, Losing(cluster), address=cluster.address, num_cpus=2.0, wait=20.0)
    assert "runtime.wait" in str(lost.value)
    fedlab.resume(out, overrides=["runtime.executor=inline"])
    assert [
        one["weights_sha256"] for one in json.loads((out / "manifest.json").read_text())["cells"]
    ] == inline["weights"]


def test_another_ray_is_refused_before_it_is_joined(cluster: Cluster, tmp_path: Path) -> None:
    """The cluster is told that it was started by another version; nothing of it is used after that."""
    from ray._common.usage import usage_constants
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    client = GcsClient(address=cluster.address)
    told = json.dumps({"ray_version": "2.9.3", "python_version": "3.9.18"}).encode()
    client.internal_kv_put(usage_constants.CLUSTER_METADATA_KEY, told, True, namespace=b"cluster")
    with pytest.raises(BackendError, match=r"runs Ray 2\.9\.3 on Python 3\.9\.18, this process Ray"):
        result(tmp_path / "run", address=cluster.address)
    assert not ray.is_initialized()
