"""The run directory: private, owned by one process at a time, and never half-written.

The manifest is created first with the status "running" and says "finished" only when everything that
it names is there. A run that was killed keeps "running", but nobody holds its lock any more.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from fedlab import files
from fedlab.errors import BackendError, DataError, UsageError
from fedlab.foreign import SCHEMA, refuse_newer

if TYPE_CHECKING:
    from fedlab.tasks import State

LOCK = ".lock"
"""The file that whoever works on a run has locked."""
HOLDER = ".lock.pid"
"""Whose lock it is, for people: the lock itself is the kernel's."""


class RunDirectory:
    """Paths and atomic writes of one run; made by `create` or `open`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def create(cls, path: Path | None, name: str) -> RunDirectory:
        """A new directory: `path`, or the next free `runs/<name>-<n>`.

        Raises:
            UsageError: the directory holds something already.
            BackendError: it cannot be created.
        """
        return cls(_create(path, name), {"schema": SCHEMA, "status": "running"})

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """A directory that `create` made.

        Raises:
            UsageError: there is no such directory.
            DataError: it holds no manifest, or a damaged one.
            NewerRun: a later fedlab wrote it.
        """
        if not path.is_dir():
            what = "is a file" if path.exists() else "there is no such directory"
            raise UsageError(f"{path}: {what}; expected the directory of a run, as in runs/quickstart-1")
        file = path / "manifest.json"
        if not file.is_file():
            if not any(path.iterdir()):
                raise DataError(
                    f"{path} is empty: no manifest.json; expected the directory of a run, as in"
                    " runs/quickstart-1"
                )
            raise DataError(
                f"{path}: no manifest.json; expected the directory of a run. A run that was stopped before"
                " it wrote one has done nothing yet: run it again"
            )
        try:
            manifest = json.loads(file.read_bytes())
            if isinstance(manifest, dict):
                refuse_newer(manifest, path)
            if not isinstance(manifest, dict) or manifest["schema"] != SCHEMA:
                raise ValueError("not a manifest of schema 1")
        except (ValueError, KeyError) as error:
            raise DataError(f"{file} is damaged ({error}); restore it from a copy, or run again") from error
        return cls(path.resolve(), manifest)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the directory while the block runs; the lock ends with the process, however that ends.

        Raises:
            UsageError: another process owns it; says which.
            BackendError: the disk refuses.
        """
        lock, holder = FileLock(self.path / LOCK), self.path / HOLDER
        with files.refusal(self.path):
            try:
                lock.acquire(timeout=0.1, poll_interval=0.02)  # a glance at who owns it takes an instant
            except Timeout:
                raise self.in_use(self.path) from None
        try:
            with files.refusal(holder):
                holder.write_text(f"{os.getpid()}\n")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    @staticmethod
    def owned(path: Path) -> bool:
        """Whether a process works on the run at `path`. Asking leaves no trace; what cannot be asked is."""
        lock = path / LOCK
        if lock.is_symlink():  # whoever opens a lock through a link empties what it leads to
            return True
        if not lock.is_file():
            return False
        try:
            with FileLock(lock, timeout=0):
                return False
        except (Timeout, OSError):
            return True

    @staticmethod
    def in_use(path: Path) -> UsageError:
        """What whoever wants the run at `path` is told, while another process owns it."""
        try:
            owner = f"pid {int((path / HOLDER).read_text())}"
        except (OSError, ValueError):
            owner = "a process"
        return UsageError(f"{path} is locked by {owner}, which works on it; wait until it ends, or stop it")

    def repair(self) -> None:
        """Remove what a kill left behind: temporary files, and half a line of the event log.

        Raises:
            BackendError: the disk refuses.
        """
        files.remove_temporaries(self.path)
        files.drop_half_line(self.path / "events.jsonl")

    def has(self, name: str) -> bool:
        """Whether the file is there; if so, it is whole."""
        return (self.path / name).is_file()

    def read_json(self, name: str) -> dict[str, Any]:
        """What `write_json` wrote.

        Raises:
            DataError: it is missing or damaged.
        """
        path = self.path / name
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read ({error}); restore it from a copy, or run again"
            ) from error
        if not isinstance(found, dict):
            raise DataError(f"{path}: expected a JSON object; restore it from a copy, or run again")
        return found

    def write_text(self, name: str, text: str) -> None:
        """Write a file atomically, creating its folder.

        Raises:
            BackendError: the disk refuses.
        """
        files.write_text(self.path / name, text)

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """As `write_text`, strict JSON."""
        files.write_json(self.path / name, data)

    def write_tensors(self, name: str, tensors: State) -> None:
        """As `write_text`, safetensors."""
        files.write_tensors(self.path / name, tensors)

    def update_manifest(self, **fields: Any) -> None:
        """Change some fields of the manifest and write it; None removes a field."""
        whole = self.manifest | fields
        self.manifest = {key: value for key, value in whole.items() if value is not None}
        self.write_json("manifest.json", self.manifest)

    def event(self, event: str, **fields: Any) -> None:
        """Append a line to events.jsonl."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, ensure_ascii=False)
        files.append(self.path / "events.jsonl", [line])


def _create(path: Path | None, name: str) -> Path:
    try:
        if path is not None:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise UsageError(f"{path} is not empty; give --out a new directory, nothing is overwritten")
            path.chmod(0o700)
            return path.resolve()
        number = 1
        while True:
            candidate = Path("runs") / f"{name}-{number}"
            try:
                candidate.mkdir(mode=0o700, parents=True)
                return candidate.resolve()
            except FileExistsError:
                number += 1
    except OSError as error:
        where = path if path is not None else Path("runs")
        raise BackendError(
            f"{where} cannot be used as a run directory: {error.strerror or error};"
            " give --out a directory that you may write"
        ) from error
