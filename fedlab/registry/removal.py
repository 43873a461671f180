"""Removing a run or a sweep, and nothing else."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

from fedlab import files
from fedlab.errors import DataError, NewerRun, UsageError
from fedlab.experiment.directory import RunDirectory
from fedlab.registry.entry import TRACES, known
from fedlab.registry.swept import NAME as SWEEP
from fedlab.registry.swept import cells

LAST = ("manifest.json", SWEEP, "scenario.toml", ".lock")
"""Files that are removed after all others: by them the rest of a run is known as one."""


def removable(path: Path) -> None:
    """Refuse what must not be removed.

    Raises:
        UsageError: it is a link, no run, holds the working directory, or a process works on it.
        NewerRun: a later fedlab wrote it.
    """
    if path.is_symlink():
        raise UsageError(f"{path} is a link; nothing is removed through one: give {path.resolve()}")
    try:
        known(path)
    except NewerRun:
        raise
    except DataError:
        if sum((path / name).is_file() for name in TRACES) < 2:
            raise UsageError(
                f"{path} is no directory of a run: none wrote what is in it; remove it yourself, if you must"
            ) from None
    if Path.cwd().is_relative_to(path.resolve()):
        raise UsageError(f"{path} holds the working directory; go elsewhere first")
    for one in (path, *_cells(path)):
        if RunDirectory.owned(one):
            raise RunDirectory.in_use(one)


def remove(path: Path) -> None:
    """Remove a run, or a sweep with its cells. Interrupted, it can be removed again.

    Links in it are removed, never followed.

    Raises:
        UsageError, NewerRun: see `removable`.
        BackendError: the disk refuses.
    """
    removable(path)
    with ExitStack() as stack:
        for place in (path, *_cells(path)):
            stack.enter_context(RunDirectory(place, {}).locked())
        with files.refusal(path), os.scandir(path) as found:
            for one in sorted(found, key=lambda one: one.name in LAST):
                if one.is_dir(follow_symlinks=False):
                    shutil.rmtree(one.path)
                else:
                    os.unlink(one.path)
    with files.refusal(path):
        path.rmdir()


def _cells(path: Path) -> list[Path]:
    return cells(path) if (path / SWEEP).is_file() else []
