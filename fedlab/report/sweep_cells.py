"""Read the directory of a sweep: what it is made of, how far each cell is, and what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlab.errors import DataError, UsageError
from fedlab.foreign import refuse_newer
from fedlab.report.build import AuditReport
from fedlab.report.gates import failing
from fedlab.report.reading import AXES, key, reached
from fedlab.report.rundir import malformed, parse_json

Row = dict[str, Any]

NAME = "sweep.json"
"""What tells the directory of a sweep from that of a run."""
_LEAK = (
    "psnr_median",
    "psnr_mean",
    "psnr_ci95",
    "fraction_recovered",
    "fraction_ci95",
    "recovered",
    "images",
)


@dataclass(frozen=True)
class Status:
    """How far a cell is: `waiting`, `finished`, `interrupted` or `failed`, and then why."""

    word: str
    error: str | None = None


def is_sweep(path: Path) -> bool:
    """Whether this is the directory of a sweep."""
    return (path / NAME).is_file()


def read_sweep(path: Path) -> Row:
    """What sweep.json holds.

    Raises:
        UsageError: there is no such directory.
        DataError: it holds no sweep, or a damaged one.
        NewerRun: a later fedlab wrote it.
    """
    if not path.is_dir():
        raise UsageError(f"{path}: there is no such directory; expected that of a sweep")
    file = path / NAME
    if not file.is_file():
        raise DataError(f"{path}: no {NAME}; expected the directory of a sweep")
    data = parse_json(file.read_bytes(), file)
    if isinstance(data, dict):
        refuse_newer(data, path)
    if not isinstance(data, dict) or data.get("schema") != 1:
        raise DataError(f"{file}: not a sweep of schema 1; use the version of fedlab that made it")
    with malformed(NAME):
        for cell in data["cells"]:
            if Path(str(cell["name"])).name != cell["name"] or str(cell["name"]).startswith("."):
                raise DataError(f"{file}: {cell['name']!r} is no name of a cell")
            dict(cell["settings"]), str(cell["scenario_sha256"])
        for axis in data["axes"]:
            str(axis["key"]), list(axis["values"])
        str(data["scenario"]), str(data["name"])
    return data


def status(path: Path, cell: str) -> Status:
    """How far a cell of the sweep in `path` is; a failure counts until the next attempt begins."""
    manifest: Any = None
    file = path / "cells" / cell / "manifest.json"
    if file.is_file():
        try:
            manifest = json.loads(file.read_bytes())
        except ValueError:
            manifest = {}
        if isinstance(manifest, dict) and manifest.get("status") == "finished":
            return Status("finished")
    last = next((one for one in reversed(_events(path)) if one.get("cell") == cell), {})
    if last.get("event") == "failed":
        return Status("failed", str(last.get("error") or "no reason given"))
    return Status("waiting" if manifest is None and not last else "interrupted")


def _events(path: Path) -> list[Row]:
    """The whole lines of events.jsonl."""
    file = path / "events.jsonl"
    found = []
    for line in file.read_bytes().splitlines() if file.is_file() else ():
        try:
            one = json.loads(line)
        except ValueError:  # half a line of a sweep that was killed
            continue
        found += [one] if isinstance(one, dict) else []
    return found


def cell_row(path: Path, cell: Row) -> Row:
    """A cell of the report; `rows` are its strategies, defenses and client modes, none until it is finished.

    Raises:
        DataError: it is finished, but its report is missing or damaged.
    """
    found = status(path, str(cell["name"]))
    about: Row = {
        "name": cell["name"],
        "settings": cell["settings"],
        "status": found.word,
        "error": found.error,
        "threshold_db": None,
        "gates_failed": [],
        "rows": [],
    }
    if found.word != "finished":
        return about
    data = AuditReport.load(path / "cells" / str(cell["name"])).data
    with malformed(f"cells/{cell['name']}/report.json"):
        about["threshold_db"] = float(data["threshold_db"])
        about["gates_failed"] = [str(one["expression"]) for one in failing(data)]
        about["rows"] = [_row(finding, data) for finding in data["verdict"]["findings"]]
    return about


def _row(finding: Row, data: Row) -> Row:
    """One pool: the strongest attack of the run's own attacker, accuracy, what is proved, and membership."""
    place = key(finding)
    attack = next(
        (r for r in reached(data["attacks"]) if key(r) == place and r["attack"] == finding["strongest"]), None
    )
    utility: Row = next((row for row in data["utility"] if key(row) == place), {})
    asked = [
        row
        for row in reached(data.get("membership") or [])
        if key(row) == place and row.get("auc") is not None
    ]
    member = max(asked, key=lambda row: float(row["auc"]), default={})
    return {
        **dict(zip(AXES, place, strict=True)),
        "level": finding["level"],
        "attack": finding["strongest"],
        **({name: attack[name] for name in _LEAK} if attack else dict.fromkeys(_LEAK)),
        "control": attack["control"]["psnr_median"] if attack else None,
        "accuracy": utility.get("accuracy"),
        "accuracy_ci95": utility.get("accuracy_ci95"),
        "accuracy_ci95_kind": utility.get("accuracy_ci95_kind"),
        "epsilon": finding["epsilon"],
        "membership": member.get("attack"),
        "auc": member.get("auc"),
        "auc_ci95": member.get("auc_ci95"),
    }
