"""What a Ray cluster has, and whether this process can join it, found out before it does.

`ray.init` waits for ever at an address where something else than Ray listens, and its words for another
version are three lines of which none says what to do.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

from fedlab.errors import BackendError, UsageError
from fedlab.runtime.ray.room import Resources

ASK_SECONDS = 20.0
"""How long a cluster may take to say what it is."""
CONNECT_SECONDS = 3.0


@dataclass(frozen=True)
class Node:
    """A machine of a cluster: what it has, and what of it nobody holds now."""

    address: str
    has: Resources
    free: Resources


@dataclass(frozen=True)
class Outlook:
    """A cluster as it is now.

    Attributes:
        address: host:port of its head.
        ray, python: versions that it was started with.
    """

    address: str
    ray: str
    python: str
    nodes: tuple[Node, ...]

    @property
    def joinable(self) -> bool:
        """Whether this machine is one of its nodes: Ray runs no driver elsewhere."""
        mine = {one.address for found in psutil.net_if_addrs().values() for one in found}
        return any(node.address in mine for node in self.nodes)

    def expect_same_versions(self) -> None:
        """Refuse a cluster of another Ray or Python: Ray's own rule, by which patch levels count as well.

        Raises:
            BackendError: it is one; says what there is and what to do.
        """
        patches = os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "patch") == "patch"
        here, digits = platform.python_version(), 3 if patches else 2
        same = self.python.split(".")[:digits] == here.split(".")[:digits]
        if self.ray != ray.__version__ or not same:
            raise BackendError(
                f"the Ray cluster at {self.address} runs Ray {self.ray} on Python {self.python}, this process"
                f" Ray {ray.__version__} on Python {here}; both must be the same on every machine. Install"
                " the cluster's versions here, or these there, and start the cluster again (`ray stop`,"
                " `ray start`)"
            )


def outlook(address: str) -> Outlook:
    """Ask the cluster at `address`, "auto" or "host:port".

    Raises:
        UsageError: not an address.
        BackendError: no cluster answers there.
    """
    place = os.environ.get("RAY_ADDRESS") or "auto" if address == "auto" else address
    if place != "auto":
        _expect_listener(place, address)
    script = Path(__file__).with_name("status.py")
    command = [sys.executable, "-P", str(script), place]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise BackendError(unreachable(address, "something else than Ray answers")) from None
    if told.returncode != 0:
        lines = told.stderr.strip().splitlines() or ["it does not answer"]
        none = "Ray runs nowhere on this machine, and RAY_ADDRESS is not set"
        raise BackendError(unreachable(address, none if place == "auto" else lines[-1]))
    found = json.loads(told.stdout.strip().splitlines()[-1])
    nodes = tuple(Node(**node) for node in found.pop("nodes"))
    return Outlook(**found, nodes=nodes)


def _expect_listener(place: str, address: str) -> None:
    """Refuse what is no address, and one where nobody listens.

    Raises:
        UsageError, BackendError: it is one.
    """
    host, colon, port = place.rpartition(":")
    if not colon or not host or not port.isdecimal() or "/" in host:
        whose = "RAY_ADDRESS" if address == "auto" else "runtime.address"
        raise UsageError(f'{whose} is "{place}"; expected "auto" or "host:port" (no ray:// address)')
    if not listens(endpoint(place)):
        raise BackendError(unreachable(address, "no connection"))


def endpoint(address: str) -> tuple[str, int]:
    """ "host:port" in two parts."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def listens(where: tuple[str, int]) -> bool:
    """Whether anybody accepts a connection there."""
    try:
        socket.create_connection(where, timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def unreachable(address: str, why: str) -> str:
    """That there is no cluster, why, and what to do."""
    place = os.environ.get("RAY_ADDRESS")
    named = f' (RAY_ADDRESS = "{place}")' if address == "auto" and place else ""
    return (
        f'no Ray cluster at runtime.address = "{address}"{named}: {why}. Start one with `ray start --head`,'
        " see `ray status --address` for yours, or leave runtime.address out to start a local one"
    )
