"""What a sweep is going to take, before anything starts: `fedlab sweep --dry-run`.

Each cell is tried as `fedlab run --dry-run` tries a run (`fedlab.experiment.forecast`), one after the other
in this process. How many run at once, and how long all of it takes, follows from what each takes of the
machine, as in the sweep itself.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlab.errors import FedlabError
from fedlab.experiment.forecast import Forecast
from fedlab.experiment.forecast import forecast as forecast_run
from fedlab.progress import Progress, Quiet
from fedlab.report.sweep_cells import NAME
from fedlab.scenario import Scenario
from fedlab.scenario.sweep import Cell, Sweep, plan
from fedlab.sweeps.directory import SweepDirectory
from fedlab.sweeps.room import Room, machine, taken, turns

LOADED = "import fedlab.experiment.launch, fedlab.report.page"
"""What every cell loads before it does anything."""


@dataclass(frozen=True)
class CellForecast:
    """A cell that is to run.

    Attributes:
        room: what it takes of the machine.
        forecast: None where the run would be refused; `refused` is then why.
    """

    name: str
    settings: Mapping[str, Any]
    room: Room
    forecast: Forecast | None
    refused: FedlabError | None = None

    @property
    def seconds(self) -> float | None:
        """Training and attacks, on a core that nobody else uses; None where they could not be tried."""
        if self.forecast is None:
            return 0.0
        told = self.forecast.seconds
        return None if told.training is None or told.attacks is None else told.training + told.attacks


@dataclass(frozen=True)
class SweepForecast:
    """What the cells of a sweep are going to take.

    Attributes:
        cells: those that are to run. finished: how many are finished already.
        start: seconds that each takes to load.
        at_once: the most that run at the same time.
        wall: seconds until all have ended; None where one of them could not be tried.
    """

    name: str
    cells: tuple[CellForecast, ...]
    finished: int
    start: float
    at_once: int
    wall: float | None

    @property
    def forecasts(self) -> list[Forecast]:
        """Of the cells that would not be refused."""
        return [one.forecast for one in self.cells if one.forecast is not None]

    @property
    def memory(self) -> int | None:
        """Bytes that cells at work hold at most; None on a cluster, which is not asked."""
        held = [
            None if (many := one.memory.workers) is None else one.memory.worker * many
            for one in self.forecasts
        ]
        known = sorted((one for one in held if one is not None), reverse=True)
        return sum(known[: self.at_once]) if len(known) == len(held) else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "cells": [
                {
                    "name": one.name,
                    "settings": dict(one.settings),
                    "seconds": one.seconds,
                    "refused": None if one.refused is None else str(one.refused),
                    "forecast": None if one.forecast is None else one.forecast.to_dict(),
                }
                for one in self.cells
            ],
            "finished": self.finished,
            "at_once": self.at_once,
            "memory": self.memory,
            "start": self.start,
            "wall": self.wall,
        }


def forecast(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    *,
    overrides: Sequence[str] = (),
    axes: Sequence[str] = (),
    out: Path | str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> SweepForecast:
    """What `sweep` is going to take with the same arguments; writes nothing.

    Raises:
        ScenarioError: every mistake of every cell.
        UsageError: `out` holds another sweep.
    """
    planned = plan(scenario, overrides, axes)
    todo = _left(planned, Path(out) if out is not None else None)
    told = progress or Quiet()
    whole, job = machine(), "trying each cell"
    found = []
    told.start(job, len(todo))
    for done, cell in enumerate(todo, start=1):
        found.append(_tried(cell, whole))
        told.advance(job, done, cell.name)
    told.finish(job)
    start = _loading() if found else 0.0
    known = [one.seconds for one in found]
    plays = [(one.room, start + (seconds or 0.0)) for one, seconds in zip(found, known, strict=True)]
    wall, at_once = turns(plays, whole, workers or len(todo))
    return SweepForecast(
        planned.base.name,
        tuple(found),
        len(planned.cells) - len(todo),
        start,
        at_once,
        None if None in known else wall,
    )


def _left(planned: Sweep, out: Path | None) -> list[Cell]:
    """The cells that are not finished in `out`."""
    if out is None or not (out / NAME).is_file():
        return list(planned.cells)
    directory = SweepDirectory.create(out, planned, "")
    return [cell for cell in planned.cells if directory.status(cell) != "finished"]


def _tried(cell: Cell, whole: Room) -> CellForecast:
    room = taken(cell.scenario.runtime, whole)
    try:
        return CellForecast(cell.name, cell.settings, room, forecast_run(cell.scenario))
    except FedlabError as error:
        return CellForecast(cell.name, cell.settings, room, None, error)


def _loading() -> float:
    """Seconds of a processor core until a process has loaded what a cell needs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-P", "-c", LOADED], stdin=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
