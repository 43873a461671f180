"""`audit_app` in a process of its own: whatever an app does to it, the caller goes on.

The child is the leader of its own process group, so that stopping it stops what it started. Only this file
and the errors are loaded here; torch and Flower are the child's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlab import errors
from fedlab.errors import AppFailed, BackendError, FedlabError, Interrupted
from fedlab.progress import Progress, Quiet

RUNNING = "run the app"
"""What `fedlab.apps.running` calls the time in which the app's own code is at work."""
PATIENCE = 10.0
"""Seconds that a child gets to write down that it was stopped."""


def audit_apart(asked: Mapping[str, Any], progress: Progress | None = None) -> Path:
    """Audit an app in a child process; the run directory.

    Args:
        asked: the arguments of `fedlab.apps.audit.audit_app`, as JSON has them.

    Raises:
        FedlabError: as `audit_app`.
        AppFailed: the app ended the process.
        KeyboardInterrupt: the user stopped it; so is the child.
    """
    listener = progress or Quiet()
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "fedlab.apps.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
    except OSError as error:
        raise BackendError(f"cannot start a process for the app: {error}") from error
    told = _Told(listener)
    try:
        if child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps(dict(asked)))
                child.stdin.close()
        for line in child.stdout or ():
            told.take(json.loads(line))
        code = child.wait()
    finally:
        _end(child)
        if child.stdout is not None:
            child.stdout.close()
        if child.stdout is not None:
            child.stdout.close()
    return told.outcome(code)


def _end(child: subprocess.Popen[str]) -> None:
    """Stop the child and what it started, if anything is left of it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


class _Told:
    """What a child said, and where it was when it said no more."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.end: dict[str, Any] = {}
        self.place = "while it was started"
        self.ran = False

    def take(self, line: Mapping[str, Any]) -> None:
        match line.get("kind"):
            case "start":
                self.progress.start(line["job"], line["total"])
                self.place = _place(line["job"], 0)
            case "advance":
                self.progress.advance(line["job"], line["done"], line["note"])
                self.place = _place(line["job"], line["done"])
            case "finish":
                self.progress.finish(line["job"], line["note"])
                self.place = f"after: {line['job']}"
                self.ran = self.ran or line["job"] == RUNNING
            case "message":
                self.progress.message(line["text"])
                self.place = f"after: {line['text'].splitlines()[0][:200]}"
            case _:
                self.end = dict(line)

    def outcome(self, code: int) -> Path:
        """The run directory, or the error."""
        end = self.end
        match end.get("kind"):
            case "done":
                return Path(end["directory"])
            case "error":
                raise _error(end["error"], end["text"])
            case "exit":
                raise AppFailed(f"the app ended the program with exit code {end['code']}, {self.place}")
            case "fault":
                raise FedlabError(
                    f"unexpected {end['text']}, {self.place}. This is a fault in fedlab or in a plugin"
                )
        if self.ran:
            raise BackendError(
                f"the process of the audit ended with code {code}, {self.place}; out of memory? The app"
                " had run to its end"
            )
        how = f"with code {code}" if code >= 0 else f"by signal {signal.Signals(-code).name}"
        raise AppFailed(
            f"the app ended the process {how}, {self.place}: it called os._exit, crashed or ran out of memory"
        )


def _place(job: str, done: int) -> str:
    return f"in round {done + 1}" if job == RUNNING else f"during: {job}"


def _error(name: str, text: str) -> FedlabError:
    """The error of that name; where it takes more than a text, its nearest ancestor that does not."""
    found = getattr(errors, name, FedlabError)
    if not (isinstance(found, type) and issubclass(found, FedlabError)):
        found = FedlabError
    if found is Interrupted:
        raise KeyboardInterrupt
    kinds = [kind for kind in found.__mro__ if issubclass(kind, FedlabError)]
    for kind in kinds:
        with contextlib.suppress(TypeError):
            return kind(text)
    return FedlabError(text)
