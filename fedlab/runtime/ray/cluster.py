"""The Ray runtime that workers live in: started, joined or found, watched, and left behind clean.

A limit: when the owner of a cluster that was joined shuts it down in the ordinary way, Ray's own
threads may end this process before `pulse` sees it, with exit code 1 and without a word: the object
store's client calls `_exit` as soon as its connection breaks, and neither a setting nor Python can
stop that. `reaper`, a process beside this one, then tells the user how to go on.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import state

from fedlab import QUIET
from fedlab.errors import BackendError, UsageError
from fedlab.runtime.ray.outlook import Outlook, endpoint, listens, outlook
from fedlab.runtime.ray.room import Resources, fits, holdings

PULSE_SECONDS = 0.25
"""How often a busy driver looks whether Ray is still there."""
GRACE_SECONDS = 10.0
"""How long a cluster's head may be away: somebody may be restarting it."""


def environment() -> dict[str, str]:
    """What a worker's environment must hold."""
    return {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # Whatever the user's own code imports here must import in a worker as well.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **QUIET,
    }


class RayCluster:
    """A connection to Ray.

    A runtime that this process is already connected to is used as it is; otherwise the one at
    `address` is joined, or a local one is started. Only the last is ever shut down.

    Args:
        address: "auto" or "host:port" of an existing cluster.
        working_dir: a folder that Ray copies to each machine for the workers to import from.

    Raises:
        UsageError: `working_dir` is no folder.
        BackendError: Ray does not start, or does not answer at `address`.
    """

    def __init__(self, address: str | None = None, working_dir: str | None = None) -> None:
        if working_dir is not None and not Path(working_dir).is_dir():
            raise UsageError(
                f'runtime.working_dir = "{working_dir}" is no folder here ({Path.cwd()}); expected one with'
                " the code that workers are to import"
            )
        self._environment: dict[str, Any] = {"env_vars": environment()}
        if working_dir is not None:
            self._environment["working_dir"] = str(Path(working_dir).resolve())
        self._found = ray.is_initialized()
        self._started = not self._found and address is None
        self._reaper: subprocess.Popen[str] | None = None
        self._told: set[int] = set()
        if not self._found:
            self._connect(address)
        atexit.register(self.close)
        self._head = endpoint(ray.get_runtime_context().gcs_address)
        self._raylet = _own_raylet()
        self._looked = time.monotonic()
        self._lost: float | None = None
        self.remember()

    def _connect(self, address: str | None) -> None:
        options: dict[str, Any] = {
            "configure_logging": False,
            "log_to_driver": False,
            "runtime_env": self._environment,
        }
        there = None if address is None else outlook(address)  # `ray.init` may wait there for ever
        if there is not None:
            there.expect_same_versions()
        try:
            if address is None:
                # "local": RAY_ADDRESS must not turn a private runtime into somebody's cluster.
                context = ray.init(address="local", include_dashboard=False, **options)
                self._watch("session", Path(context.address_info["session_dir"]).name)
            else:
                ray.init(address=address, **options)
                self._watch("joined", "{}:{}".format(*_own_raylet()))
        except BaseException as error:
            ray.shutdown()  # it may have come half-way
            if not isinstance(error, Exception):
                raise
            if there is not None:
                raise BackendError(_not_joined(there, error)) from error
            raise BackendError(
                f"Ray does not start: {error}. Run with --set runtime.executor=inline, or see fedlab doctor"
            ) from error

    def _watch(self, *role: str) -> None:
        """Start the process that cleans up after this one, or speaks for it."""
        script = Path(__file__).with_name("reaper.py")
        self._reaper = subprocess.Popen(
            [sys.executable, "-P", str(script), *role],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C must not reach it
        )

    @property
    def actor_options(self) -> dict[str, Any]:
        """What actors need in a runtime whose environment was not set here."""
        return {"runtime_env": self._environment} if self._found else {}

    def remember(self) -> None:
        """Tell the reaper which processes there are by now."""
        if not self._started or self._reaper is None or self._reaper.stdin is None:
            return
        reaper = self._reaper.pid
        for process in psutil.Process().children(recursive=True):
            if process.pid not in self._told and process.pid != reaper and _of_ray(process):
                with contextlib.suppress(psutil.Error, BrokenPipeError):
                    self._reaper.stdin.write(f"{process.pid} {process.create_time()!r}\n")
                    self._told.add(process.pid)
        with contextlib.suppress(BrokenPipeError):
            self._reaper.stdin.flush()

    def pulse(self) -> None:
        """Look whether Ray still answers; cheap, and at most every `PULSE_SECONDS`.

        Raises:
            BackendError: this machine's raylet is gone (a process that then touches the object store
                is ended by Ray), or the head has been away for too long.
        """
        now = time.monotonic()
        if now - self._looked < PULSE_SECONDS:
            return
        self._looked = now
        if not listens(self._raylet):
            raise BackendError(_gone("raylet", self._raylet))
        if listens(self._head):
            self._lost = None
            return
        self._lost = self._lost or now
        if self._started or now - self._lost > GRACE_SECONDS:
            raise BackendError(_gone("head (gcs_server)", self._head))

    @property
    def headless(self) -> bool:
        """Whether the head did not answer the last time: questions to it would block."""
        return self._lost is not None

    @property
    def nodes(self) -> list[Resources]:
        """What each node that is alive has."""
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def capacity(self, num_cpus: float, num_gpus: float) -> int:
        """How many workers of that size fit on the nodes that are alive, each on one node."""
        return sum(fits(node, num_cpus, num_gpus) for node in self.nodes)

    def has_room(self, num_cpus: float, num_gpus: float) -> bool:
        """Whether one more worker of that size fits beside what runs now."""
        free = state.available_resources_per_node().values()
        return any(
            node.get("CPU", 0.0) >= num_cpus and node.get("GPU", 0.0) >= num_gpus  # shares of GPUs, too
            for node in free
        )

    def placed(self, actor: Any) -> bool:
        """Whether an actor has its process on some node, even if it is not ready yet."""
        entry = state.actors(actor._actor_id.hex())
        return bool(entry and entry["Pid"])

    def holdings(self) -> str:
        """The cluster's resources, for an error message."""
        return holdings(self.nodes)

    def close(self) -> None:
        """Disconnect; end what was started here, down to the last process."""
        atexit.unregister(self.close)
        if self._found:
            return
        self._found = True
        try:
            self.remember()
            ray.shutdown()
        finally:
            if self._reaper is not None:
                reaper, self._reaper = self._reaper, None
                with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                    reaper.communicate("closed\n", timeout=15.0)


def _own_raylet() -> tuple[str, int]:
    mine = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == mine)
    return node["NodeManagerAddress"], int(node["NodeManagerPort"])


def _of_ray(process: psutil.Process) -> bool:
    """Whether a child of ours belongs to Ray: the user may have started others."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return any(word.startswith("ray::") or f"{os.sep}ray{os.sep}" in word for word in words)


def _not_joined(there: Outlook, error: Exception) -> str:
    """Why a healthy cluster could not be joined, and what to do."""
    if there.joinable:
        return f"the Ray cluster at {there.address} cannot be joined: {error}"
    return (
        f"this machine is no node of the Ray cluster at {there.address}, whose nodes are"
        f" {', '.join(node.address for node in there.nodes)}. Run fedlab on one of them, or make this machine"
        f" one that only directs: `ray start --address={there.address} --num-cpus=0`"
    )


def _gone(what: str, endpoint: tuple[str, int]) -> str:
    return (
        f"Ray's {what} at {endpoint[0]}:{endpoint[1]} is gone: killed, or out of memory."
        " Nothing that was already written is lost."
    )
