"""The directory of a sweep: `sweep.json` says what it is, `cells/NAME` are runs as any other.

How far a cell is stands in its own run directory, and nowhere else; what became of one that has none, in
`events.jsonl`. So there is nothing that a kill could leave half true.
"""

from __future__ import annotations

import difflib
import json
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedlab import files
from fedlab.errors import UsageError
from fedlab.experiment.directory import RunDirectory
from fedlab.report.rundir import malformed
from fedlab.report.sweep_cells import NAME, read_sweep, status
from fedlab.scenario import resolved_toml
from fedlab.scenario.sweep import Cell, Sweep, plan

SHOWN = 20
"""Lines of a diff that are told."""


class SweepDirectory:
    """Made by `create` or `open`; to be worked on while `locked`."""

    def __init__(self, path: Path, sweep: Sweep) -> None:
        self.path, self.sweep = path, sweep
        self._files = RunDirectory(path, {})

    @classmethod
    def create(cls, path: Path | None, sweep: Sweep, command: str) -> SweepDirectory:
        """A new directory, `path` or the next free `runs/NAME-sweep-N`; or that of the same sweep, which may
        have got more cells since.

        Raises:
            UsageError: the directory holds something else, or a sweep whose cells are others.
            BackendError: it cannot be created.
        """
        if path is not None and (path / NAME).is_file():
            _same(read_sweep(path), sweep, path)
            found = cls(path.resolve(), sweep)
        else:
            found = cls(RunDirectory.create(path, f"{sweep.base.name}-sweep").path, sweep)
        found._command = command
        return found

    @classmethod
    def open(cls, path: Path) -> SweepDirectory:
        """A directory that `create` made.

        Raises:
            UsageError: this version of fedlab makes other scenarios of it.
            DataError: it holds no sweep, or a damaged one.
        """
        data = read_sweep(path)
        with malformed(NAME):
            tables = tomllib.loads(_scenario(path))
        sweep = plan(tables)
        _same(data, sweep, path)
        found = cls(path.resolve(), sweep)
        found._command = str(data.get("command") or "")
        return found

    _command = ""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the directory while the block runs, and bring it up to date.

        Raises:
            UsageError: another process owns it; says which.
            BackendError: the disk refuses.
        """
        with self._files.locked():
            files.remove_temporaries(self.path)
            files.drop_half_line(self.path / "events.jsonl")
            self._files.write_json(NAME, self._description())
            self._files.write_text("scenario.toml", self.sweep.toml)
            yield

    def _description(self) -> dict[str, Any]:
        sweep = self.sweep
        return {
            "schema": 1,
            "name": sweep.base.name,
            "claim": sweep.base.claim,
            "scenario_sha256": files.sha256(sweep.toml.encode()),
            "axes": [{"key": key, "values": list(values)} for key, values in sweep.axes.items()],
            "cells": [
                {"name": one.name, "settings": one.settings, "scenario_sha256": one.sha256}
                for one in sweep.cells
            ],
            "command": self._command,
            "scenario": sweep.toml,
        }

    def status(self, cell: Cell) -> str:
        """`waiting`, `finished`, `interrupted` or `failed`."""
        return status(self.path, cell.name).word

    def held(self, cell: Cell) -> bool:
        """Whether another process works on it, such as one that still ends since its sweep was killed."""
        return RunDirectory.owned(self.path / "cells" / cell.name)

    def words(self, cell: Cell) -> list[str]:
        """The command that runs the cell, or goes on with it."""
        place = self.path / "cells" / cell.name
        if (place / "manifest.json").is_file():
            return ["resume", str(place)]
        if place.is_dir():  # it was stopped before it had done anything
            with files.refusal(place):
                shutil.rmtree(place)
        self._files.write_text(f"scenarios/{cell.name}.toml", resolved_toml(cell.scenario))
        return ["run", str(self.path / "scenarios" / f"{cell.name}.toml"), "--out", str(place)]

    def log(self, cell: Cell) -> Path:
        """Where what the cell's process prints goes."""
        return self.path / "logs" / f"{cell.name}.log"

    def event(self, event: str, **fields: Any) -> None:
        """Append a line to events.jsonl."""
        self._files.event(event, **fields)


def _scenario(path: Path) -> str:
    """The scenario that the sweep was made of, to the letter."""
    return str(json.loads((path / NAME).read_bytes())["scenario"])


def _same(data: dict[str, Any], sweep: Sweep, path: Path) -> None:
    """Whether every cell that there is belongs to this sweep.

    Raises:
        UsageError: it does not; with a diff.
    """
    before = {one["name"]: one["scenario_sha256"] for one in data["cells"]}
    now = {one.name: one.sha256 for one in sweep.cells}
    if before.items() <= now.items():
        return
    old, new = _scenario(path).splitlines(), sweep.toml.splitlines()
    diff = list(difflib.unified_diff(old, new, "as it began", "now", lineterm="", n=0))
    diff[SHOWN:] = [f"… and {len(diff) - SHOWN} more lines"] if len(diff) > SHOWN else []
    shown = "\n".join(diff) or "the scenario is the same; this version of fedlab has other defaults"
    raise UsageError(
        f"{path} holds another sweep than this one:\n{shown}\nGive --out a new directory. A sweep may get"
        " more values of its axes; what it began with stays"
    )
