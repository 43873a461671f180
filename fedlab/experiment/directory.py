"""The run directory: private, and never half-written where it looks finished.

Files are written to a temporary name and renamed. The manifest is created first with the status
"running" and says "finished" only when everything that it names is there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from fedlab.errors import BackendError, UsageError
from fedlab.tasks import State


class RunDirectory:
    """Paths and atomic writes of one run.

    Raises:
        UsageError: the directory holds something already.
        BackendError: it cannot be created or written.
    """

    def __init__(self, path: Path | None, name: str) -> None:
        self.path = self._create(path, name)
        self.manifest: dict[str, Any] = {"schema": 1, "status": "running"}

    @staticmethod
    def _create(path: Path | None, name: str) -> Path:
        try:
            if path is not None:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                if any(path.iterdir()):
                    raise UsageError(
                        f"{path} is not empty; give --out a new directory, nothing is overwritten"
                    )
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

    def write_text(self, name: str, text: str) -> None:
        """Write a file atomically, creating its folder.

        Raises:
            BackendError: the disk refuses.
        """
        self._write(name, text.encode())

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write strict JSON atomically: NaN is an error here, not a token."""
        self.write_text(name, json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n")

    def write_tensors(self, name: str, tensors: State) -> None:
        """Write safetensors atomically."""
        self._write(name, save({key: value.contiguous() for key, value in tensors.items()}))

    def _write(self, name: str, content: bytes) -> None:
        target = self.path / name
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _refused(target, error) from error

    def update_manifest(self, **fields: Any) -> None:
        """Change some fields of the manifest and write it."""
        self.manifest |= fields
        self.write_json("manifest.json", self.manifest)

    def event(self, kind: str, **fields: Any) -> None:
        """Append a line to events.jsonl."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **fields}, ensure_ascii=False)
        path = self.path / "events.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> BackendError:
    return BackendError(f"{path} cannot be written: {error.strerror or error}; free some space")
