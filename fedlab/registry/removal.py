"""Removing a run, and nothing but a run."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from fedlab import files
from fedlab.errors import DataError, NewerRun, UsageError
from fedlab.registry.entry import SWEEP, TRACES, owned, read_manifest


def removable(path: Path) -> None:
    """Refuse what must not be removed.

    Raises:
        UsageError: it is a link, no run, holds the working directory, or a process works on it.
        NewerRun: a later fedlab wrote it.
    """
    if path.is_symlink():
        raise UsageError(f"{path} is a link; nothing is removed through one: give {path.resolve()}")
    if (path / SWEEP).is_file():
        raise UsageError(
            f"{path} is a sweep; remove its runs ({path.name}/cells/NAME), or the whole directory yourself"
        )
    try:
        read_manifest(path)
    except NewerRun:
        raise
    except DataError:
        if sum((path / name).is_file() for name in TRACES) < 2:
            raise UsageError(
                f"{path} is no directory of a run: none wrote what is in it; remove it yourself, if you must"
            ) from None
    if Path.cwd().is_relative_to(path.resolve()):
        raise UsageError(f"{path} holds the working directory; go elsewhere first")
    if owned(path):
        raise UsageError(
            f"{path} is locked by {_owner(path)}, which works on it; wait until it ends, or stop it"
        )


def remove(path: Path) -> None:
    """Remove a run; links in it are removed, never followed. Interrupted, it can be removed again.

    Raises:
        UsageError, NewerRun: see `removable`.
        BackendError: the disk refuses.
    """
    removable(path)
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(path / ".lock", timeout=0))
        except Timeout:
            raise UsageError(f"{path} is locked by {_owner(path)}; wait until it ends") from None
        with files.refusal(path), os.scandir(path) as found:
            for one in sorted(found, key=lambda one: one.name in ("manifest.json", "scenario.toml", ".lock")):
                if one.is_dir(follow_symlinks=False):
                    shutil.rmtree(one.path)
                else:
                    os.unlink(one.path)
    with files.refusal(path):
        path.rmdir()


def _owner(path: Path) -> str:
    try:
        return f"pid {int((path / '.lock.pid').read_text())}"
    except (OSError, ValueError):
        return "a process"
