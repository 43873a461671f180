"""Whether an app that is run once more is the one that was audited: its files, and the bits that it sends.

Records are not kept with a run, so whoever attacks it later runs the app again. What is found then is about
the run that was audited only if the same clients sent the same updates.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedlab.audit import Observation, archive
from fedlab.experiment.cells import Cell
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.provenance import machine, versions
from fedlab.files import refusal
from fedlab.tasks import State

CODE = (".py", ".toml", ".json", ".yaml", ".yml", ".cfg", ".ini")
"""Files that decide what an app does, as a rule."""
LARGEST, MOST = 2**20, 2000
"""Bytes of a file, and how many files, that are looked at."""


def code_of(app: Path) -> dict[str, str]:
    """sha256 of the files of code and settings in an app's folder, by path; hidden ones are none of it."""
    found = {}
    for path in _files(app):
        try:
            found[path.relative_to(app).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            continue
        if len(found) == MOST:
            break
    return found


def _files(folder: Path) -> Iterator[Path]:
    """In a fixed order; run directories and environments of Python are no part of the app."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_dir():
            if not (path.is_symlink() or (path / "manifest.json").exists() or (path / "pyvenv.cfg").exists()):
                yield from _files(path)
        elif path.suffix in CODE and path.stat().st_size <= LARGEST:
            yield path


@dataclass(frozen=True)
class Difference:
    """How updates differ from those that were kept.

    Attributes:
        updates: how many that were kept did not come again; kept: of how many.
        started: whether a client of the first round was sent another model.
        largest: difference between two numbers, of updates that are comparable; 0 if none is.
    """

    updates: int
    kept: int
    started: bool = False
    largest: float = 0.0

    def __str__(self) -> str:
        words = f"{self.updates} of {self.kept} updates are not those that were kept"
        if self.largest:
            words += f", by up to {self.largest:.2g}"
        if self.started:
            words += "; the server began with another model already"
        return words


def difference(kept: Sequence[Observation], seen: Sequence[Observation]) -> Difference | None:
    """None if both are the same clients' same updates, bit for bit."""
    mine = {(one.round, one.client): one for one in kept}
    theirs = {(one.round, one.client): one for one in seen}
    apart = [key for key, one in mine.items() if key not in theirs or not _equal(one, theirs[key])]
    if not apart and mine.keys() == theirs.keys():
        return None
    first = min((key[0] for key in mine), default=0)
    pairs = [(mine[key], theirs[key]) for key in apart if key in theirs]
    return Difference(
        len(apart),
        len(mine),
        any(one.round == first and not _alike(one.before, other.before) for one, other in pairs),
        max((_largest(one.update, other.update) for one, other in pairs), default=0.0),
    )


def _equal(one: Observation, other: Observation) -> bool:
    told = (one.config, one.examples) == (other.config, other.examples)
    states = ("before", "update", "buffers_before", "buffers_after")
    return told and all(_alike(getattr(one, name), getattr(other, name)) for name in states)


def _alike(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _largest(one: State, other: State) -> float:
    shared = [name for name in one if name in other and one[name].shape == other[name].shape]
    sizes = [float((one[name] - other[name]).abs().max()) for name in shared if one[name].numel()]
    return max(sizes, default=0.0)


def kept(directory: RunDirectory, cell: Cell) -> list[Observation]:
    """The updates that a run keeps of a cell; none if it has none yet.

    Raises:
        DataError: a file of them is missing or damaged.
    """
    place = f"observations/{cell.name}"
    return archive.load(directory.path / place) if directory.has(f"{place}/index.json") else []


def keep(directory: RunDirectory, cell: Cell, seen: Sequence[Observation]) -> None:
    """Keep a cell's updates; what an earlier, stopped walk found of other updates is removed first.

    Raises:
        DataError: what is there is damaged.
        BackendError: the disk refuses.
    """
    place = directory.path / "observations" / cell.name
    if place.exists():
        if (place / "index.json").is_file() and difference(archive.load(place), seen) is None:
            return
        forget(directory, cell)
    archive.add(place, seen)


def forget(directory: RunDirectory, cell: Cell) -> None:
    """Remove what a run holds of a cell: its attacks first, so that none is left of updates that are gone.

    Raises:
        BackendError: the disk refuses.
    """
    with refusal(directory.path):
        for place in ("attacks", "truth", "observations"):
            shutil.rmtree(directory.path / place / cell.name, ignore_errors=True)
            for path in (directory.path / place).glob(f"{cell.name}.*"):
                path.unlink()


def forget_all(directory: RunDirectory) -> bool:
    """Remove what a run holds of all its cells; whether there was anything.

    Raises:
        BackendError: the disk refuses.
    """
    there = [
        place for name in ("attacks", "truth", "observations") if (place := directory.path / name).exists()
    ]
    with refusal(directory.path):
        for place in there:
            shutil.rmtree(place)
    return bool(there)


def changed(before: Mapping[str, Any], app: Path) -> list[str]:
    """What is known to differ from a run's manifest, in sentences; empty if nothing is."""
    found = []
    then, now = before.get("asked", {}).get("code", {}), code_of(app)
    files = sorted(path for path in then.keys() | now.keys() if then.get(path) != now.get(path))
    if then and files:
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        found.append(f"the app's files changed: {', '.join(files[:5])}{more}")
    for name, old, new in (
        ("versions", before.get("versions", {}), versions()),
        ("the machine", before.get("machine", {}), machine()),
    ):
        keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        if old and keys:
            told = [f"{key} was {old.get(key, 'absent')}, is {new.get(key, 'absent')}" for key in keys]
            found.append(f"{name} changed: {', '.join(told)}")
    return found
