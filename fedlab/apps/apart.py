"""Audits of an app in a process of their own: whatever an app does to it, the caller goes on.

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlab import errors
from fedlab.errors import AppFailed, BackendError, FedlabError, Interrupted, UsageError
from fedlab.experiment.ending import Stop
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
        Interrupted: the user stopped it; so is the child.
    """
    return _apart({"do": "audit", "folder": asked["path"], **asked}, progress)


def attack_apart(directory: Path, asked: Mapping[str, Any], progress: Progress | None = None) -> Path:
    """The same for `fedlab.apps.again.attack_app`; `asked` has its attacks and threats."""
    return _apart({"do": "attack", **_told_of(directory), **asked}, progress)


def recording_apart(
    directory: Path, app: Path, asked: Mapping[str, Any], progress: Progress | None = None
) -> Path:
    """The same for `fedlab.apps.tap.attack_recording`; `asked` has its attacks."""
    places = {"path": str(directory.absolute()), "app": str(app.absolute()), "folder": str(app.absolute())}
    return _apart({"do": "attack a recording", **places, **asked}, progress)


def resume_apart(directory: Path, *, force: bool, progress: Progress | None = None) -> Path:
    """The same for `fedlab.apps.again.resume_app`."""
    return _apart({"do": "resume", "force": force, **_told_of(directory)}, progress)


def expect_no_overrides(directory: Path, overrides: Sequence[str]) -> None:
    """Refuse what would change an app that runs again.

    Raises:
        UsageError: there is something.
    """
    if overrides:
        raise UsageError(
            f"--set {overrides[0]}: {directory} is an audit of an app, which runs as it did; expected none"
        )


def is_app(directory: Path) -> bool:
    """Whether a run directory is that of an audited app; False where nothing can be read."""
    with contextlib.suppress(OSError, ValueError):
        return "asked" in json.loads((directory / "manifest.json").read_bytes()) or (
            (directory / "app.json").is_file()
        )
    return False


def _told_of(directory: Path) -> dict[str, str]:
    """Where a run directory is, and the app that it is of, if that is known."""
    path = directory.absolute()
    asked = json.loads((path / "manifest.json").read_bytes()).get("asked", {})
    return {"path": str(path), "folder": str(asked.get("path", path / "unknown"))}


def _apart(asked: Mapping[str, Any], progress: Progress | None) -> Path:
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
    told, stopped = _Told(listener), False
    try:
        if child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps(dict(asked)) + "\n")
                child.stdin.flush()  # and not closed: it is the child's leash
        with Stop().installed():
            told.listen(child)
            child.wait()
    except KeyboardInterrupt:
        stopped = True
    finally:
        _end(child)
    if stopped:
        told.listen(child)  # its last words are how to go on
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    return told.outcome(child.returncode, stopped=stopped)


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

    def listen(self, child: subprocess.Popen[str]) -> None:
        """Take what comes, to the end."""
        for line in child.stdout or ():
            with contextlib.suppress(ValueError):  # half a line of one that was killed
                self.take(json.loads(line))

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

    def outcome(self, code: int, *, stopped: bool = False) -> Path:
        """The run directory, or the error."""
        end = self.end
        if stopped:
            raise Interrupted(str(end.get("text", "stopped by the user")))
        match end.get("kind"):
            case "done":
                return Path(end["directory"])
            case "error":
                raise _error(end["error"], end["text"])
            case "exit":
                raise AppFailed(f"the app ended the program with exit code {end['ended']}, {self.place}")
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
    kinds = [kind for kind in found.__mro__ if issubclass(kind, FedlabError)]
    for kind in kinds:
        with contextlib.suppress(TypeError):
            return kind(text)
    return FedlabError(text)
