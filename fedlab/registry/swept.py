"""How a sweep stands, read as leniently as a run: how many of its cells are finished, and which failed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedlab.foreign import SCHEMA, clean, refuse_newer

NAME = "sweep.json"
"""The file by which a directory is known as a sweep's; its runs are in `cells`."""
TOLD = 3
"""Cells that are named."""


@dataclass(frozen=True)
class Swept:
    """Of a sweep and its cells.

    Attributes:
        started: when its first cell was, UTC, ISO 8601; "" if none was.
        reported: whether its report is there.
        axes: the values of each key that it turns.
    """

    name: str
    claim: str
    started: str
    cells: tuple[str, ...]
    finished: tuple[str, ...]
    failed: tuple[str, ...]
    reported: bool
    axes: dict[str, tuple[Any, ...]]

    @property
    def reason(self) -> str:
        """Why it is not finished."""
        left = len(self.cells) - len(self.finished)
        if self.failed:
            return f"{len(self.failed)} of {len(self.cells)} cells failed: {first(self.failed)}"
        if left:
            return f"{left} of {len(self.cells)} cells are not finished"
        return "" if self.reported else "its report is not built yet"


def swept(path: Path, data: Any) -> Swept:
    """`data` is what sweep.json holds.

    Raises:
        NewerRun: a later fedlab wrote it.
        ValueError, KeyError, TypeError, OSError: it is damaged.
    """
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    refuse_newer(data, path)
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema = {data.get('schema')!r}, expected {SCHEMA}")
    cells = tuple(str(one["name"]) for one in data["cells"])
    if wrong := [one for one in cells if Path(one).name != one or one.startswith(".")]:
        raise ValueError(f"{wrong[0]!r} is no name of a cell")
    events = _events(path / "events.jsonl")
    last = {one.get("cell"): one.get("event") for one in events}
    finished = tuple(one for one in cells if _finished(path / "cells" / one))
    return Swept(
        name=str(data["name"]),
        claim=str(data.get("claim") or ""),
        started=_time(events[0]) if events else "",
        cells=cells,
        finished=finished,
        failed=tuple(one for one in cells if one not in finished and last.get(one) == "failed"),
        reported=(path / "report.html").is_file(),
        axes={str(one["key"]): tuple(one["values"]) for one in data.get("axes") or []},
    )


def cells(path: Path) -> list[Path]:
    """The directories of its cells; links are not followed."""
    try:
        return sorted(one for one in (path / "cells").iterdir() if one.is_dir() and not one.is_symlink())
    except OSError:
        return []


def first(names: Sequence[str]) -> str:
    """The first few, and whether there are more."""
    return ", ".join(names[:TOLD]) + (", …" if len(names) > TOLD else "")


def _finished(cell: Path) -> bool:
    try:
        manifest = json.loads((cell / "manifest.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.get("status") == "finished"


def _events(path: Path) -> list[Mapping[str, Any]]:
    """Whole lines; a sweep that was killed may have left half of one."""
    found: list[Mapping[str, Any]] = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            one = clean(json.loads(line))
        except (ValueError, RecursionError):
            continue
        found += [one] if isinstance(one, dict) else []
    return [one for one in found if isinstance(one.get("cell"), str)]


def _time(event: Mapping[str, Any]) -> str:
    try:
        return datetime.fromtimestamp(float(event["time"]), UTC).isoformat(timespec="seconds")
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return ""
