"""Ends the processes of a Ray runtime that its driver left behind; run as a script of its own.

Ray's own processes end with their driver only as long as each of them notices: its agents outlive a
killed driver by minutes, and workers outlive a killed raylet. This process reads "PID START" lines
from the driver until the pipe closes, for which a SIGKILL is good enough; then it kills what is left
of them, and whatever names the session directory in its command line.

It knows psutil only, so that it is small and up at once.
"""

from __future__ import annotations

import sys

import psutil


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


def main(session: str) -> None:
    known: set[tuple[int, float]] = set()
    for line in sys.stdin:
        pid, start = line.split()
        known.add((int(pid), float(start)))
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


if __name__ == "__main__":
    main(sys.argv[1])
