"""One run's ServerApp in a process of its own, and what becomes of it.

The process is the leader of its own group: Ctrl-C reaches it through its parent alone, as a signal that
Flower minds, so that the SuperLink learns of the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlab.apps.tap import OUTPUT
from fedlab.apps.tap.link import Address
from fedlab.errors import AppFailed, BackendError
from fedlab.progress import Progress

JOB = "execute the run"
FAREWELL = 20.0
"""Seconds that Flower gets to tell the SuperLink that a run was stopped."""
LINES, WIDTH = 15, 300
"""Of Flower's log, shown where it ended before the app began."""


def execute(
    directory: Path,
    address: Address,
    token: str,
    observe: Sequence[int],
    patience: float,
    listener: Progress,
) -> None:
    """Execute the run that `token` is for, and record it into `directory`.

    Raises:
        AppFailed: the app failed (has its traceback), or the run was stopped from outside.
        BackendError: the SuperLink went away, or the run could not be recorded.
        KeyboardInterrupt: the user stopped it, and so is the run.
    """
    words = ["--runtime-api-address", address.place, "--token", token]
    words += ["--insecure"] if address.insecure else []
    words += ["--root-certificates", str(address.certificates.absolute())] if address.certificates else []
    asked = {
        "directory": str(directory),
        "observe": list(observe),
        "patience": patience,
        "arguments": words,
    }
    news = _News(listener, max(observe))
    with open(directory / OUTPUT, "wb") as sink:
        child = _started(sink)
    try:
        if child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps(asked))
                child.stdin.close()
        for line in child.stdout or ():
            news.take(json.loads(line))
        code = child.wait()
    finally:
        _end(child)
        if child.stdout is not None:
            child.stdout.close()
    news.judge(code, directory, address.place, patience)


def _started(sink: Any) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "fedlab.apps.tap.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
    except OSError as error:
        raise BackendError(f"cannot start a process for the ServerApp: {error}") from error


def _end(child: subprocess.Popen[str]) -> None:
    """Stop the child and what it started, if anything is left of it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(FAREWELL)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


class _News:
    """What the process told, and what it comes to."""

    def __init__(self, listener: Progress, rounds: int) -> None:
        self._listener, self._rounds = listener, rounds
        self._end: Mapping[str, Any] = {}
        self._fault = ""
        self._round = 0
        listener.start(JOB, rounds)

    def take(self, line: Mapping[str, Any]) -> None:
        """One line."""
        match line["kind"]:
            case "round":
                self._round = line["number"]
                self._listener.advance(JOB, min(self._round - 1, self._rounds), f"round {self._round}")
            case "fault":
                self._fault = line["text"]
                self._listener.message(f"the recording has ended, the run goes on: {self._fault}")
            case _:
                self._end = line

    def judge(self, code: int, directory: Path, place: str, patience: float) -> None:
        """Return if all went well.

        Raises:
            AppFailed, BackendError: it did not.
        """
        end, kept = self._end, f"{directory} holds what was recorded until then"
        when = f"in round {self._round}" if self._round else "before its first round"
        match end.get("how"):
            case "well":
                self._listener.finish(JOB, f"{self._round} round{'s' * (self._round != 1)}")
            case "gone":
                raise BackendError(
                    f"the SuperLink at {place} went away {when}, and was not back after {patience:g} seconds"
                    f" ({end['text']}). {kept}"
                )
            case "stopped":
                raise AppFailed(
                    f"the run was stopped from outside {when}: by flwr stop, or the SuperLink at {place} was"
                    f" started anew and knows it no more. {kept}"
                )
            case "failed":
                raise AppFailed(
                    f"the ServerApp failed {when}: {end['text']}. {kept}\n\n{end['traceback']}",
                    end["traceback"],
                )
            case _ if code < 0:
                raise AppFailed(
                    f"the ServerApp ended the process by signal {signal.Signals(-code).name}, {when}: it"
                    f" crashed or ran out of memory. {kept}"
                )
            case _:
                raise BackendError(
                    f"Flower's executor ended with code {code}, {when}. The end of what it said:\n"
                    f"{_tail(directory / OUTPUT)}"
                )
        if self._fault:
            raise BackendError(
                f"the run went well, and could not be recorded to its end: {self._fault}. {kept}"
            )


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line[:WIDTH]}" for line in lines[-LINES:])
    return ""
