"""What happens before a worker works, without starting Ray: room on the machine, waiting, last words."""

from __future__ import annotations

import io
import socket
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from fedlab.errors import BackendError, UsageError
from fedlab.runtime import RayExecutor
from fedlab.runtime.ray import pool, reaper
from fedlab.runtime.ray.room import fits, own_resources


@pytest.fixture
def no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two CPUs and no GPU, on which Ray must not be started."""

    def init(*arguments: Any, **options: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2, "GPU": 0}')
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)


ASKED = [
    ({"num_gpus": 1}, "1 worker of 1 CPU and 1 GPU asked for, but this machine has 2 CPU and 0 GPU"),
    ({"num_cpus": 100}, "1 worker of 100 CPU and 0 GPU asked for"),
    ({"workers": 64}, "64 workers of 1 CPU and 0 GPU asked for"),
    ({"workers": 2, "num_cpus": 1.5}, "2 workers of 1.5 CPU and 0 GPU asked for"),
]


@pytest.mark.parametrize(("arguments", "message"), ASKED)
def test_what_this_machine_lacks_is_refused_before_ray_is_started(
    no_start: None, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        RayExecutor(**arguments)


def test_what_this_machine_has_is_what_ray_would_say(no_start: None) -> None:
    assert {kind: own_resources().get(kind, 0.0) for kind in ("CPU", "GPU")} == {"CPU": 2, "GPU": 0}
    with pytest.raises(BackendError, match="Ray was started"):
        RayExecutor(workers=2)


def test_a_share_of_a_gpu_lies_on_one_device() -> None:
    """Shares of 0.4: two on each of two GPUs, although 2 / 0.4 = 5."""
    assert fits({"CPU": 8.0, "GPU": 2.0}, 1.0, 0.4) == 4
    assert fits({"CPU": 8.0, "GPU": 2.0}, 1.0, 2.0) == 1
    assert fits({"CPU": 1.0, "GPU": 2.0}, 0.5, 0.4) == 2
    with pytest.raises(
        UsageError, match=r"^num_gpus must be a fraction up to 1, or a whole number; got 1\.5$"
    ):
        RayExecutor(num_gpus=1.5)


@dataclass
class Cluster:
    """A cluster that only says what it is asked for."""

    room: bool = False
    alive: bool = False
    headless: bool = False
    asked: list[Any] = field(default_factory=list)

    def pulse(self) -> None: ...

    def capacity(self, num_cpus: float, num_gpus: float) -> int:
        return 2

    def has_room(self, num_cpus: float, num_gpus: float) -> bool:
        return self.room

    def placed(self, actor: Any) -> bool:
        self.asked.append(actor)
        return self.alive

    def holdings(self) -> str:
        return "this machine has 2 CPU and 0 GPU"


def waits(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> tuple[float, str]:
    """How long a pool whose workers never answer waits, in seconds of a clock that each look moves by one."""
    now = [1000.0]

    def nothing(futures: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        now[0] += 1.0
        return [], futures

    monkeypatch.setattr(pool.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pool, "ray", SimpleNamespace(wait=nothing, kill=lambda actor: None))
    made: Any = pool.Pool(cluster, object, lambda actor: object(), 2, 1.0, 0.0)  # type: ignore[arg-type]
    with pytest.raises(BackendError) as stopped:
        list(made.run([object()]))
    return now[0] - 1000.0, str(stopped.value)


def test_a_worker_without_room_is_given_up_soon_and_told_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited, told = waits(monkeypatch, Cluster())
    assert waited == pool.PLACE_SECONDS
    assert "no room for a worker" in told and "this machine has 2 CPU and 0 GPU" in told
    assert "each worker needs 1 CPU and 0 GPU" in told


@pytest.mark.parametrize("cluster", [Cluster(alive=True), Cluster(room=True)], ids=["importing", "starting"])
def test_a_worker_that_is_slow_to_start_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster
) -> None:
    waited, told = waits(monkeypatch, cluster)
    assert waited == pool.START_SECONDS + 1.0
    assert "no worker was ready within 300 seconds" in told and "runtime.num_cpus" not in told


def test_the_reaper_speaks_for_a_driver_that_was_taken_along(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reaper, "GONE_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as raylet:
        address = f"127.0.0.1:{raylet.getsockname()[1]}"
        reaper.speak(address, io.StringIO(""))  # a driver that was killed: Ray is still there
    reaper.speak(address, io.StringIO("closed\n"))  # one that said good-bye
    assert capsys.readouterr().err == ""
    reaper.speak(address, io.StringIO(""))
    told = capsys.readouterr().err
    assert told.startswith(f"error: Ray at {address} was shut down") and "`fedlab resume RUN`" in told
