"""Outlives a driver that ended without a word, and does what it no longer can; a script of its own.

`reaper.py session NAME` ends the processes of the local Ray runtime that its driver left behind.
Ray's own processes end with their driver only as long as each of them notices: its agents outlive a
killed driver by minutes, and workers outlive a killed raylet. This process reads "PID START" lines
from the driver until the pipe closes, for which a SIGKILL is good enough; then it kills what is left
of them, and whatever names the session directory in its command line.

`reaper.py joined HOST:PORT` speaks for the driver of somebody else's cluster. When its raylet shuts
down, Ray ends the driver without a message; if the pipe closes before the driver said "closed", and
the raylet at that address is gone, this process says what happened.

It knows psutil only, so that it is small and up at once.
"""

from __future__ import annotations

import socket
import sys
import time
from typing import TextIO

import psutil

GONE_SECONDS = 3.0
"""How long a raylet that is shutting down may still answer."""


def leftovers(session: str, known: set[tuple[int, float]]) -> list[psutil.Process]:
    """Living processes that are in `known` (pid, start time) or were started for `session`."""
    found, me = [], psutil.Process()
    for process in psutil.process_iter():
        try:
            named = process != me and any(session in word for word in process.cmdline())
            if named or (process.pid, process.create_time()) in known:
                found.append(process)
        except psutil.Error:
            continue
    return found


def reap(session: str, driver: TextIO) -> None:
    """Wait for the end of the driver, then for that of its runtime, and help."""
    words = [line.split() for line in driver]
    known = {(int(line[0]), float(line[1])) for line in words if len(line) == 2}
    for _ in range(3):  # one that was just being started may have slipped through
        remaining = leftovers(session, known)
        for process in remaining:
            try:
                process.kill()
            except psutil.Error:
                continue
        if not remaining:
            return
        psutil.wait_procs(remaining, timeout=2.0)


def speak(raylet: str, driver: TextIO) -> None:
    """Wait for the end of the driver; say what happened if its raylet took it along."""
    if "closed" in driver.read() or not gone(raylet):
        return
    print(
        f"error: Ray at {raylet} was shut down, and its library ended this process (exit code 1)."
        " Nothing that was already written is lost: `fedlab resume RUN` goes on from there, on another"
        " cluster or with --set runtime.executor=inline",
        file=sys.stderr,
        flush=True,
    )


def gone(raylet: str) -> bool:
    """Whether nobody answers there, now or soon."""
    host, _, port = raylet.rpartition(":")
    deadline = time.monotonic() + GONE_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
        except OSError:
            return True
        time.sleep(0.1)
    return False


if __name__ == "__main__":
    {"session": reap, "joined": speak}[sys.argv[1]](sys.argv[2], sys.stdin)
