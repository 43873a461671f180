"""Where an app works: a directory of its own that looks like its folder, and goes when it is done.

Flower leaves an app where its user stood, as a rule in the app's own folder. So paths such as ./data lead
from the scratch directory where they lead from there, and what the app writes at such a path stays in the
scratch directory: folders are made anew there, small files are copied, large ones are linked. Three things
cannot be kept apart so, and are told: what is written at absolute paths, over a file that is linked, and in a
folder that is linked as a whole, because it holds very many files or is a link itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

COPIED = 64 * 2**20
"""Bytes that are copied in all, the smallest files first."""
MANY = 20_000
"""Files and folders that are laid out in all; a folder with more than are left is linked as a whole."""
SHOWN = 5
Stamp = tuple[int, int]
"""Size of a file, and when it was changed last."""


@dataclass
class Laid:
    """What was laid out, to see afterwards what the app wrote.

    Attributes:
        own: the user's files by path, as they were; copied: those of them that were, as they were laid out.
        folders: linked as a whole.
    """

    app: Path
    scratch: Path
    own: dict[str, Stamp] = field(default_factory=dict)
    copied: dict[str, Stamp] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)

    def written(self) -> list[str]:
        """Files that are new in the scratch directory, or changed."""
        found = []
        for path in _tree(self.scratch):
            name = path.relative_to(self.scratch).as_posix()
            if not path.is_symlink() and path.is_file() and self.copied.get(name) != _stamp(path):
                found.append(name)
        return sorted(found)

    def reached(self) -> list[str]:
        """Files of the user's that are new or changed; what is in run directories is not the app's doing."""
        paths = list(_tree(self.app, self.folders))
        runs = {path.parent for path in paths if path.name == "manifest.json"}
        found = []
        for path in paths:
            name = path.relative_to(self.app).as_posix()
            if path.is_file() and self.own.get(name) != _stamp(path) and not runs.intersection(path.parents):
                found.append(name)
        return sorted(found)

    def told(self) -> list[str]:
        """For people; nothing if nothing was or could have been written."""
        lines = []
        if found := self.written():
            kept = "which was not kept" if len(found) == 1 else "which were not kept"
            lines.append(f"the app wrote {_files(found)}, {kept}: {_listed(found)}")
        if found := self.reached():
            lines.append(f"the app changed {_files(found)} of its own folder: {_listed(found)}")
        if self.folders:
            lines.append(f"what the app wrote there stays, for it is linked: {_listed(self.folders)}")
        return lines


def lay_out(app: Path, scratch: Path) -> Laid:
    """Let relative paths lead where they lead from the app's folder; hidden files are left out.

    What cannot be read is left for the app to miss.
    """
    folder = app.parent if app.is_file() else app
    laid, room = Laid(folder, scratch), MANY
    files: list[tuple[int, str]] = []
    for top in _visible(folder):
        beneath = list(islice(_tree(top), room + 1)) if top.is_dir() and not top.is_symlink() else []
        if top.is_dir() and (top.is_symlink() or len(beneath) > room):
            laid.folders.append(top.name)
            _link(top, scratch / top.name)
            continue
        room -= len(beneath)
        for path in (top, *beneath):
            name = path.relative_to(folder).as_posix()
            if path.is_file():
                laid.own[name] = _stamp(path)
                files.append((laid.own[name][0], name))
            elif path.is_symlink():
                laid.folders.append(name)
                _link(path, scratch / name)
            else:
                (scratch / name).mkdir(exist_ok=True)
    left = COPIED
    for size, name in sorted(files):
        if size <= left:
            with contextlib.suppress(OSError):
                shutil.copy2(folder / name, scratch / name)
                laid.copied[name] = _stamp(scratch / name)
                left -= size
        else:
            _link(folder / name, scratch / name)
    return laid


def _tree(folder: Path, without: Sequence[str] = ()) -> Iterator[Path]:
    """All that is visible beneath, each folder before what is in it; links to folders are not followed."""
    for path in _visible(folder):
        if path.name in without:
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _tree(path)


def _visible(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(
            one for one in folder.iterdir() if not one.name.startswith(".") and one.name != "__pycache__"
        )
    return []


def _link(target: Path, place: Path) -> None:
    with contextlib.suppress(OSError):
        place.symlink_to(target.resolve())


def _stamp(path: Path) -> Stamp:
    try:
        about = os.stat(path)
    except OSError:
        return (-1, -1)
    return about.st_size, about.st_mtime_ns


def _files(found: Sequence[str]) -> str:
    return "1 file" if len(found) == 1 else f"{len(found)} files"


def _listed(found: Sequence[str]) -> str:
    return ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
