"""One run as a list shows it. Whatever lies in its directory, looking at it raises nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from fedlab.errors import DataError, NewerRun
from fedlab.experiment.directory import RunDirectory
from fedlab.foreign import SCHEMA, clean, refuse_newer
from fedlab.registry.headline import Headline, headline, over
from fedlab.registry.marks import Marks, read_marks
from fedlab.registry.swept import NAME as SWEEP
from fedlab.registry.swept import Swept, first, swept

LARGEST = 2**26
"""Bytes of a manifest or a report that are read."""
TRACES = ("manifest.json", "scenario.toml", "events.jsonl", ".lock")
"""Files by which a directory is known as a run's, even where its manifest is damaged or was never written."""

BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a report that is damaged, or none, raises."""


class Status(StrEnum):
    """How a run stands. `KILLED` says that it runs, but no process owns it any more."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    DAMAGED = "damaged"
    NEWER = "newer"


_SAID = (Status.RUNNING, Status.FINISHED, Status.FAILED, Status.INTERRUPTED)


@dataclass(frozen=True)
class Entry:
    """What is known of a run, or of a sweep.

    Attributes:
        name: its path below the directory that was searched.
        sweep: whether it is a sweep, whose cells are runs.
        reason: why it is damaged, why it failed, or what of it cannot be read.
        started, finished: UTC, ISO 8601; "" if unknown.
        size: bytes on the disk.
        trained, planned: cells that are trained (of a sweep: finished), and all of them; None where no file
            says so.
        axes: of a sweep, the values of each key that it turns.
    """

    name: str
    path: Path
    status: Status
    reason: str = ""
    scenario: str = ""
    claim: str = ""
    started: str = ""
    finished: str = ""
    size: int = 0
    trained: int = 0
    planned: int | None = None
    headline: Headline | None = None
    marks: Marks = field(default_factory=Marks)
    sweep: bool = False
    axes: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "path": str(self.path), "status": str(self.status)}


def look(path: Path, name: str | None = None) -> Entry:
    """Whatever the directory at `path` holds."""
    entry: dict[str, Any] = {"name": name or path.name, "path": path, "size": size(path)}
    entry["started"] = _changed(path)
    troubles = []
    try:
        entry["marks"] = read_marks(path)
    except DataError as error:
        troubles.append(str(error))
    if (path / SWEEP).is_file():
        return _sweep(path, entry, troubles)
    try:
        manifest = read_manifest(path)
        status = Status(str(manifest.get("status")))
        if status not in _SAID:
            raise ValueError(f'status = "{status}"')
    except NewerRun as error:
        return Entry(**entry, status=Status.NEWER, reason=str(error))
    except (DataError, ValueError) as error:
        return Entry(**entry, status=Status.DAMAGED, reason=str(error))
    if status is Status.RUNNING and not RunDirectory.owned(path):
        status = Status.KILLED
    report, trouble = _headline(path)
    if status is Status.FAILED:
        troubles.insert(0, _text(manifest.get("error")))
    cells = manifest.get("cells")
    return Entry(
        **entry | {"started": _text(manifest.get("started")) or entry["started"]},
        status=status,
        reason="; ".join(filter(None, [*troubles, trouble])),
        scenario=_text(manifest.get("name")),
        claim=_text(manifest.get("claim")),
        finished=_text(manifest.get("finished")),
        trained=len(cells) if isinstance(cells, list) else 0,
        planned=_planned(path),
        headline=report,
    )


def known(path: Path) -> None:
    """Pass the directory of a run or a sweep.

    Raises:
        NewerRun: a later fedlab wrote it.
        DataError: it is neither, or damaged.
    """
    if (path / SWEEP).is_file():
        read_sweep(path)
    else:
        read_manifest(path)


def read_sweep(directory: Path) -> Swept:
    """How the sweep stands.

    Raises:
        NewerRun: a later fedlab wrote it.
        DataError: it is damaged.
    """
    path = directory / SWEEP
    try:
        return swept(directory, clean(_json(path)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); restore it from a copy, or sweep again") from error


def _sweep(path: Path, entry: dict[str, Any], troubles: list[str]) -> Entry:
    entry["sweep"] = True
    try:
        found = read_sweep(path)
    except NewerRun as error:
        return Entry(**entry, status=Status.NEWER, reason=str(error))
    except DataError as error:
        return Entry(**entry, status=Status.DAMAGED, reason=str(error))
    status = Status.FAILED if found.failed else Status.INTERRUPTED if found.reason else Status.FINISHED
    running = RunDirectory.owned(path)
    figures, trouble = _over_cells(path, found)
    troubles += [trouble] if trouble else []
    return Entry(
        **entry | {"started": found.started or entry["started"]},
        status=Status.RUNNING if running else status,
        reason="; ".join(filter(None, ["" if running and not found.failed else found.reason, *troubles])),
        scenario=found.name,
        claim=found.claim,
        trained=len(found.finished),
        planned=len(found.cells),
        headline=figures,
        axes=found.axes,
    )


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a run, its text cleaned.

    Raises:
        NewerRun: a later fedlab wrote it.
        DataError: there is none, or it is damaged.
    """
    path = directory / "manifest.json"
    if not path.is_file():
        raise DataError(
            f"{directory}: no manifest.json; a run that was stopped before it wrote one did nothing"
        )
    try:
        manifest = clean(_json(path))
        if not isinstance(manifest, dict):
            raise ValueError("not a JSON object")
        refuse_newer(manifest, directory)
        if manifest.get("schema") != SCHEMA:
            raise ValueError(f"schema = {manifest.get('schema')!r}, expected {SCHEMA}")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); restore it from a copy, or run again") from error
    return manifest


def size(path: Path) -> int:
    """Bytes of all files below, links not followed; what cannot be read counts nothing."""
    return sum(_sizes(path))


def _sizes(path: Path) -> Iterator[int]:
    try:
        with os.scandir(path) as found:
            for one in found:
                if one.is_dir(follow_symlinks=False):
                    yield from _sizes(Path(one.path))
                else:
                    yield one.stat(follow_symlinks=False).st_size
    except OSError:
        return


def _headline(path: Path) -> tuple[Headline | None, str]:
    """The report's figures, or why there are none; a run without a report is no trouble."""
    report = path / "report.json"
    if not report.is_file():
        return None, ""
    try:
        return headline(clean(_json(report))), ""
    except BROKEN as error:
        return None, f"{report} is damaged ({error!r}); build it again: fedlab report {path}"


def _over_cells(path: Path, found: Swept) -> tuple[Headline | None, str]:
    """The figures of the finished cells, and why some have none."""
    reports, damaged = [], []
    for name in found.finished:
        try:
            report = clean(_json(path / "cells" / name / "report.json"))
            headline(report)
            reports.append(report)
        except BROKEN:
            damaged.append(name)
    trouble = f"finished, without a report that can be read: {first(damaged)}" if damaged else ""
    try:
        text = clean(str(_json(path / "report.json")["headline"]))
    except BROKEN:  # it is not built yet
        text = ""
    return (over(reports, text) if reports else None), trouble


def _planned(path: Path) -> int | None:
    """How many cells the run began with, as its first event says."""
    try:
        with (path / "events.jsonl").open("rb") as file:
            event = json.loads(file.readline(2**20))
        return len(event["cells"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _json(path: Path) -> Any:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.stat().st_size} bytes; expected at most {LARGEST}")
    return json.loads(path.read_bytes())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _changed(path: Path) -> str:
    """When the directory was last changed: all that is known of a run that does not say when it began."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except (OSError, ValueError, OverflowError):
        return ""
