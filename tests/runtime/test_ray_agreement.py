"""What is said when machines do not fit together, without starting Ray."""

from __future__ import annotations

import socket

import pytest
from ray.exceptions import RaySystemError

from fedlab.errors import BackendError, UsageError
from fedlab.runtime.ray import outlook as outlooks
from fedlab.runtime.ray.agreement import expect_agreement, expect_import, versions
from fedlab.runtime.ray.cluster import _not_joined
from fedlab.runtime.ray.outlook import Node, Outlook, outlook
from fedlab.runtime.ray.pool import _failure

FAKE = """The actor died because of an error raised in its creation task, (pid=7, ip=10.0.0.7, repr=...)
RuntimeError: The actor with name Worker failed to import on the worker. This may be because ...

  File "worker.py", line 1, in <module>
ModuleNotFoundError: No module named 'fedlab'"""


def test_the_same_software_agrees_and_builds_of_it_do() -> None:
    assert {"fedlab", "torch", "numpy", "flwr"} == set(versions())
    assert "+" not in versions()["torch"], "2.13.0+cpu and 2.13.0+cu126 are one version"
    expect_agreement(versions(), "10.0.0.7")


def test_what_differs_is_named_with_both_versions() -> None:
    with pytest.raises(BackendError) as refused:
        expect_agreement(versions() | {"torch": "1.0", "jax": "2"}, "10.0.0.7")
    told = str(refused.value)
    assert told.startswith(
        f"the machine 10.0.0.7 of the Ray cluster has torch {versions()['torch']} (expected 1.0)"
    )
    assert "jax missing (expected 2)" in told and "numpy" not in told


def test_a_machine_without_fedlab_is_told_from_a_worker_that_died() -> None:
    with pytest.raises(BackendError, match=r"machine 10\.0\.0\.7 .* cannot import fedlab: ModuleNotFound"):
        expect_import(RuntimeError(FAKE))
    expect_import(RuntimeError("The actor is dead because its worker process has died."))


def test_work_that_cannot_be_unpacked_says_which_module_is_missing() -> None:
    told = str(_failure(RaySystemError(ModuleNotFoundError("No module named 'mine'"), "Traceback ...")))
    assert "No module named 'mine'" in told and "runtime.working_dir" in told
    assert str(_failure(RaySystemError(OSError("disk full"), "Traceback"))).startswith("Ray failed: ")


def test_auto_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.1")
    with pytest.raises(UsageError, match=r'^RAY_ADDRESS is "ray://10\.0\.0\.1"; expected "auto" or'):
        outlook("auto")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(BackendError, match=r'"auto" \(RAY_ADDRESS = "127\.0\.0\.1:1"\): no connection'):
        outlook("auto")


def test_something_else_than_ray_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts connections and says nothing."""
    monkeypatch.setattr(outlooks, "ASK_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(BackendError, match="something else than Ray answers"):
            outlook(f"127.0.0.1:{server.getsockname()[1]}")


def test_a_machine_that_is_no_node_is_told_how_to_become_one() -> None:
    there = Outlook("203.0.113.1:6379", "2.55.1", "3.11.7", (Node("203.0.113.1", {}, {}),))
    told = _not_joined(there, RuntimeError("Ray's own words"))
    assert "this machine is no node of the Ray cluster at 203.0.113.1:6379" in told
    assert "`ray start --address=203.0.113.1:6379 --num-cpus=0`" in told
