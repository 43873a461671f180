"""Checkpoints of one cell in training, so that a kill at any moment costs seconds, and never the run.

A checkpoint is three files: `round-000050.safetensors` (tensors), `round-000050.values.json`, and,
written last, `round-000050.json` with the hashes of the other two. A checkpoint whose hashes do not
agree is no checkpoint; the one before it, which is kept, then counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load

from fedlab import files
from fedlab.snapshot import Snapshot

KEEP = 2


class Checkpoints:
    """Writes and finds the checkpoints in one folder.

    Args:
        every: rounds after which one is due at the latest; 0 writes none.
        seconds: wall-clock seconds after which one is due at the latest.
    """

    def __init__(
        self, folder: Path, every: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.every, self.seconds, self.clock = folder, every, seconds, clock
        self._round, self._time = 0, clock()

    def due(self, round: int) -> bool:
        """Whether one should be written after this round."""
        late = self.clock() - self._time >= self.seconds
        return self.every > 0 and (late or round - self._round >= self.every)

    def save(self, round: int, snapshot: Snapshot) -> None:
        """Write the checkpoint of a round, and remove those that are too old.

        Raises:
            BackendError: the disk refuses; the checkpoints before it are intact.
        """
        tensors, values = self._parts(round)
        files.write_tensors(tensors, snapshot.tensors)
        files.write_json(values, snapshot.values)
        hashes = {part.name: files.sha256(part.read_bytes()) for part in (tensors, values)}
        files.write_json(self._seal(round), {"schema": 1, "files": hashes})
        self._round, self._time = round, self.clock()
        for old in self.rounds()[:-KEEP]:
            self._remove(old)

    def load(self, damaged: Callable[[str], None]) -> Snapshot | None:
        """The newest sound checkpoint, if there is one; `damaged` hears of each that is passed over."""
        for round in reversed(self.rounds()):
            try:
                snapshot = self._load(round)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                damaged(f"the checkpoint of round {round} is damaged ({error})")
                self._remove(round)
                continue
            self._round = round
            return snapshot
        return None

    def rounds(self) -> list[int]:
        """Rounds whose checkpoint is complete, ascending."""
        names = [path.stem for path in self.folder.glob("round-*.json") if path.suffixes == [".json"]]
        return sorted(int(name.removeprefix("round-")) for name in names)

    def _load(self, round: int) -> Snapshot:
        hashes = json.loads(self._seal(round).read_bytes())["files"]
        tensors, values = (part.read_bytes() for part in self._parts(round))
        for part, content in zip(self._parts(round), (tensors, values), strict=True):
            if files.sha256(content) != hashes[part.name]:
                raise ValueError(f"{part.name} is not what was written")
        return Snapshot(load(tensors), json.loads(values))

    def _remove(self, round: int) -> None:
        with files.refusal(self.folder):
            for path in (self._seal(round), *self._parts(round)):  # without its seal it is none
                path.unlink(missing_ok=True)

    def _seal(self, round: int) -> Path:
        return self.folder / f"round-{round:06d}.json"

    def _parts(self, round: int) -> tuple[Path, Path]:
        return (
            self.folder / f"round-{round:06d}.safetensors",
            self.folder / f"round-{round:06d}.values.json",
        )


def clear(folder: Path) -> None:
    """Remove all checkpoints of a cell: it is trained.

    Raises:
        BackendError: the disk refuses.
    """
    with files.refusal(folder):
        for path in sorted(folder.glob("round-*"), key=lambda one: one.suffixes != [".json"]):
            path.unlink(missing_ok=True)
        if folder.is_dir():
            folder.rmdir()
