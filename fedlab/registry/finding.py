"""Which runs there are below a directory, and which one a name means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fedlab.errors import UsageError, did_you_mean
from fedlab.foreign import clean
from fedlab.registry.entry import TRACES, Entry, look
from fedlab.registry.swept import NAME as SWEEP

DEPTH = 4
"""Directories below the one that is searched."""


def find(folder: Path, *, cells: bool = True) -> list[Entry]:
    """All runs and sweeps below `folder`, the newest first; none where there is no such directory.

    Links to directories are not followed. What lies inside a run is part of it; cells of a sweep are runs.

    Args:
        cells: these too, beside their sweeps.

    Raises:
        UsageError: `folder` is a file, or may not be read.
    """
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; expected a directory of runs, as in --dir runs")
    try:
        list(folder.iterdir())
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror or error}") from error
    entries = [look(path, path.relative_to(folder).as_posix()) for path in _runs(folder, DEPTH, cells=cells)]
    return sorted(entries, key=lambda one: (one.started, one.name), reverse=True)


def names(folder: Path) -> list[str]:
    """What `locate` knows below `folder`; nothing is looked into."""
    return [path.relative_to(folder).as_posix() for path in _runs(folder, DEPTH)]


def locate(given: str, folder: Path) -> Path:
    """The run that `given` means: a name as `find` gives it, or a path.

    Raises:
        UsageError: there is no such directory, or a link leads out of `folder` to it.
    """
    inside = folder / given
    path = inside if not Path(given).is_absolute() and inside.is_dir() else Path(given)
    if not path.is_dir():
        hint = (
            did_you_mean(given, names(folder)) or f" `fedlab runs list --dir {folder}` shows which there are."
        )
        raise UsageError(
            f"no run {clean(given)}, neither below {folder} nor as a path; expected the directory of a run,"
            f" as in runs/quickstart-1.{hint}"
        )
    below = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
    if path.is_symlink() or (below and not path.resolve().is_relative_to(folder.resolve())):
        raise UsageError(
            f"{path} is a link to {path.resolve()}, out of {folder}; links are not followed: give that path"
        )
    return path


def _runs(folder: Path, depth: int, *, cells: bool = True) -> Iterator[Path]:
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return
    for child in children:
        if child.name.startswith(".") or child.is_symlink() or not child.is_dir():
            continue
        if (child / SWEEP).is_file():
            yield child
            if cells:
                yield from _runs(child / "cells", 1)
        elif any((child / name).is_file() for name in TRACES) or _empty(child):
            yield child
        elif depth > 1:
            yield from _runs(child, depth - 1, cells=cells)


def _empty(path: Path) -> bool:
    """What a run is that was killed before its first file; or what may not be read."""
    try:
        return not any(path.iterdir())
    except OSError:
        return True
