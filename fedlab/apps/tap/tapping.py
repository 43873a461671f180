"""`tap`: wait for the next run of a SuperLink, execute it, and keep what its server saw.

The ServerApp runs in a process of its own (`fedlab.apps.tap.process`), as Flower's executor would start it.
The run directory is whole at any time: whatever ends the run, what was recorded until then stays, is
reported, and can be attacked.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from fedlab.apps.tap.executing import execute
from fedlab.apps.tap.link import SECONDS, Address, Link, Task
from fedlab.apps.tap.recording import described
from fedlab.errors import BackendError, FedlabError, Interrupted, UsageError
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.ending import Stop, now
from fedlab.experiment.provenance import machine, versions
from fedlab.progress import Progress, Quiet
from fedlab.report import AuditReport, build

POLL = 1.0
"""Seconds between two questions for the next run, as Flower's executor takes."""
PATIENCE = 120.0
"""Seconds for which a SuperLink may be gone; it gives a run up itself after a minute without a heartbeat."""
WAIT = "wait for a run of the SuperLink (flwr run)"


def tap(
    address: Address,
    *,
    observe: Collection[int] = (1,),
    out: Path | str | None = None,
    patience: float = PATIENCE,
    seconds: float = SECONDS,
    progress: Progress | None = None,
    command: str = "",
) -> AuditReport:
    """Execute the next run of a SuperLink, and record what its server sees.

    Args:
        observe: rounds whose updates are kept, counted from 1.
        out: a new or empty directory; `runs/tap-<n>` unless given.
        patience: seconds for which the SuperLink may be gone in the middle of a run.
        seconds: that it may take to answer the first question.

    Raises:
        UsageError: an address, an option or a directory that cannot work.
        BackendError: no SuperLink of this version there, or it went away.
        AppFailed: the app failed, or was stopped from outside.
        Interrupted: stopped by the user; what was recorded is kept.
    """
    listener, rounds = progress or Quiet(), tuple(sorted(set(observe)))
    if not rounds or rounds[0] < 1:
        raise UsageError(f"observe = {list(rounds)}; expected rounds, counted from 1")
    if not 1.0 <= patience <= 10**6:
        raise UsageError(f"patience = {patience:g}; expected seconds, at least 1")
    _free(out)
    stop = Stop()
    with stop.installed():
        link = Link(address, seconds)
        try:
            task = _next(link, patience, listener)
        except KeyboardInterrupt:
            raise Interrupted("stopped by the user; no run had come, and nothing was recorded") from None
        finally:
            link.close()
        directory = RunDirectory.create(Path(out) if out is not None else None, "tap")
        with directory.locked(), _ending(directory):
            _begin(directory, address, task, rounds, command)
            execute(directory.path, address, task.token, rounds, patience, listener)
            described(directory)
            report = build(directory.path, status="finished")
            directory.event("finished")
            directory.update_manifest(status="finished", finished=now())
    return report


def _free(out: Path | str | None) -> None:
    """Whether `out` can be used, before a run is taken that somebody waits for."""
    path = Path(out) if out is not None else Path("runs/tap")
    if out is not None and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} is not empty; give --out a new directory, nothing is overwritten")
    above = next(one for one in path.absolute().parents if one.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"{above} is no directory to write in; give --out a new directory elsewhere")


def _next(link: Link, patience: float, listener: Progress) -> Task:
    """The next run, however long it takes; a SuperLink that has answered once may be gone for `patience`."""
    task, left = link.next_task(), time.monotonic()
    listener.start(WAIT, 1)
    while task is None:
        time.sleep(POLL)
        try:
            task, left = link.next_task(), time.monotonic()
        except BackendError as error:
            if time.monotonic() - left > patience:
                raise BackendError(f"the SuperLink went away before a run came: {error}") from None
    listener.finish(WAIT, f"run {task.run_id}")
    return task


def _begin(
    directory: RunDirectory, address: Address, task: Task, observe: Sequence[int], command: str
) -> None:
    directory.update_manifest(
        name="tap",
        claim="What the server of a running deployment sees, and what it could tell of clients' records.",
        versions=versions(),
        machine=machine(),
        seeds=[0],
        command=command,
        started=now(),
        deployment={"superlink": address.place, "run_id": task.run_id, "observe": list(observe)},
        cells=[],
        weights_sha256={},
    )
    directory.event("started", superlink=address.place, run=task.run_id)


@contextlib.contextmanager
def _ending(directory: RunDirectory) -> Iterator[None]:
    """Let the manifest and the report say how it ended."""
    try:
        yield
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt | Interrupted) else "failed"
        with contextlib.suppress(BackendError):  # a full disk cannot take the news either
            directory.update_manifest(status=status, error=str(error)[:4000], finished=now())
            directory.event(status)
        with contextlib.suppress(FedlabError):
            described(directory)
            build(directory.path)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"stopped by the user; {directory.path} holds what was recorded") from None
        raise
