"""Flower's processes for a test: started in an environment of their own, and ended by their pids."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from fedlab import QUIET

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LATE = "Failed to start local SuperLink within"
"""What `flwr run` says where its own SuperLink needs more than 15 s to start, as on a busy machine."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Flower:
    """Flower's commands with a FLWR_HOME of their own, whose path marks every process that they start."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir()
        # Ports that nobody listens on: `flwr run` must start its own SuperLink and find no foreign one.
        self.port = free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "RAY_"))},
            **QUIET,
            "FLWR_HOME": str(home),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(self.port),
            "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
            "RAY_ADDRESS": "local",  # Flower's engine would join any cluster that runs on this machine
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def start(self, *command: str, cwd: Path = ROOT) -> subprocess.Popen[bytes]:
        """Start a process in the background; its output goes to a file in the home."""
        log = self.home / f"{len(list(self.home.glob('*.log')))}-{command[0]}.log"
        with log.open("wb") as output:
            return subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                env=self.environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def call(self, *command: str, timeout: float, cwd: Path = ROOT) -> None:
        """Run a command to its end.

        Raises:
            RuntimeError: it fails, or takes longer than `timeout` seconds.
        """
        code = self._ended(command, timeout, cwd)
        if code != 0 and LATE in self.logs():
            code = self._ended(command, timeout, cwd)
        if code != 0:
            raise RuntimeError(f"{command} exited with {code}:\n{self.logs()}")

    def _ended(self, command: tuple[str, ...], timeout: float, cwd: Path) -> int:
        try:
            return self.start(*command, cwd=cwd).wait(timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{command} took longer than {timeout} s:\n{self.logs()}") from None

    def logs(self) -> str:
        """The end of all that was printed."""
        ends = (
            f"{p.name}:\n{p.read_text(errors='replace')[-5000:]}" for p in sorted(self.home.rglob("*.log"))
        )
        return "\n".join(ends)

    def processes(self) -> list[psutil.Process]:
        """Every process that carries our FLWR_HOME: what we started, and what that started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get("FLWR_HOME") == str(self.home):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def end(self) -> None:
        """End them all, by pid; what does not end when asked is killed."""
        for end in (psutil.Process.terminate, psutil.Process.kill):
            alive = self.processes()
            for process in alive:
                try:
                    end(process)
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(alive, timeout=10)
        # those that were born meanwhile
        for process in self.processes():
            process.kill()


def wait_for(what: Callable[[], bool], seconds: float, failure: Callable[[], str]) -> None:
    """Until `what()`; real processes give no other sign.

    Raises:
        RuntimeError: with `failure()`, after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise RuntimeError(failure())
        time.sleep(0.1)
