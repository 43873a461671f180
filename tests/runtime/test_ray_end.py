"""How Ray ends: killed under our feet, shut down, or left behind by a killed driver. No process remains."""

import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from fedlab.errors import BackendError, UsageError
from fedlab.runtime import RayExecutor, SimulationGrid
from tests.runtime.apps import weights
from tests.runtime.ray_apps import always, faulty_app, none, runtime_process, zeros

pytestmark = pytest.mark.ray


def family() -> list[psutil.Process]:
    """All that this process has started, without what is already dead."""
    return psutil.Process().children(recursive=True)


def living(processes: Iterable[psutil.Process]) -> list[str]:
    found = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.name()}")
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_when_ray_itself_dies_the_run_ends_and_nothing_remains(name: str) -> None:
    executor = RayExecutor(workers=1)
    try:
        grid = SimulationGrid(faulty_app(none), 2, executor, chunk=1)
        grid.send_and_receive(zeros(grid.get_node_ids()))
        started = family()
        grid = SimulationGrid(faulty_app(runtime_process(name)), 2, executor, chunk=1)
        with pytest.raises(BackendError, match=rf"Ray's .*{name}.* is gone"):
            grid.send_and_receive(zeros(grid.get_node_ids()))
    finally:
        executor.close()
    assert living(started) == []


def test_when_no_worker_can_live_the_run_ends_and_the_next_start_is_clean() -> None:
    """Also: starting again and again in one process, and closing twice."""
    before = set(family())
    executor = RayExecutor(workers=2)
    grid = SimulationGrid(faulty_app(always(*range(20))), 20, executor, chunk=1)
    with pytest.raises(BackendError, match=r"no worker lives: .* nothing got done"):
        grid.send_and_receive(zeros(grid.get_node_ids()))
    executor.close()
    executor.close()
    assert living(set(family()) - before) == [] and not ray.is_initialized()
    executor = RayExecutor(workers=1)
    grid = SimulationGrid(faulty_app(none), 2, executor)
    assert [weights(r)[0] for r in grid.send_and_receive(zeros(grid.get_node_ids()))] == [1.0, 2.0]
    executor.close()
    assert living(set(family()) - before) == [] and not ray.is_initialized()


DRIVER = """
from fedlab.runtime import RayExecutor, SimulationGrid
from tests.runtime.ray_apps import faulty_app, none, zeros
grid = SimulationGrid(faulty_app(none), 2, RayExecutor(workers=1))
grid.send_and_receive(zeros(grid.get_node_ids()))
print("up", flush=True)
input()
"""


def test_nothing_outlives_a_killed_driver() -> None:
    root = Path(__file__).parents[2]
    pipe = subprocess.PIPE
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], cwd=root, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
    )
    assert driver.stdout is not None and driver.stdout.readline().strip() == b"up"
    started = psutil.Process(driver.pid).children(recursive=True)
    assert any(process.name() == "raylet" for process in started)
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 10.0
    while living(started) and time.monotonic() < deadline:
        psutil.wait_procs(started, timeout=0.2)
    assert living(started) == []


OWNER = """
import ray
context = ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
print(context.address_info["gcs_address"], flush=True)
input()
ray.shutdown()
"""
GUEST = """
import sys
from fedlab.runtime import RayExecutor, SimulationGrid
from tests.runtime.ray_apps import faulty_app, none, zeros
grid = SimulationGrid(faulty_app(none), 2, RayExecutor(workers=1, address=sys.argv[1]))
while True:
    grid.send_and_receive(zeros(grid.get_node_ids(), size=50_000))
    print("up", flush=True)
"""


def test_when_the_owner_of_a_joined_cluster_shuts_it_down_the_user_is_told() -> None:
    """By our own error, or by the reaper where Ray's library ends the process first."""
    options: dict[str, Any] = {"cwd": Path(__file__).parents[2], "text": True, "stdout": subprocess.PIPE}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, **options
    )
    assert owner.stdout is not None
    address = next(line.strip() for line in owner.stdout if re.fullmatch(r"[\d.]+:\d+\n", line))
    guest = subprocess.Popen([sys.executable, "-c", GUEST, address], stderr=subprocess.PIPE, **options)
    assert guest.stdout is not None and guest.stdout.readline() == "up\n"
    owner.communicate("\n")
    _, told = guest.communicate()
    assert guest.returncode == 1 and "`fedlab resume RUN` goes on from there" in told


def test_an_address_without_ray_is_refused_at_once() -> None:
    with pytest.raises(BackendError, match=r"no Ray cluster at runtime\.address = \"127\.0\.0\.1:1\""):
        RayExecutor(address="127.0.0.1:1")
    with pytest.raises(UsageError, match=r'expected "auto" or "host:port"'):
        RayExecutor(address="ray://localhost:10001")
    assert not ray.is_initialized()
