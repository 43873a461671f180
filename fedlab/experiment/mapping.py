"""Fills the map of a scenario: at each point the same clients train and the same victims are attacked.

A point is a small run of its own, in a folder of its own while it lasts, so that whatever a run can do (Ray,
stopping, resuming in the middle) a point can. What it found goes into map.json, and the folder goes away. The
base is the run itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

from fedlab import files
from fedlab.errors import BackendError, DataError, FedlabError
from fedlab.experiment import basin
from fedlab.experiment.cells import Cell, Trained
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.setup import Setup
from fedlab.progress import Progress
from fedlab.runtime import Executor
from fedlab.scenario.points import Point, axes, points

NAME = "map.json"
FOLDER = "map"
"""Where the point at hand lies."""

Work = Callable[[RunDirectory, Setup, Progress], Sequence[Trained]]
"""Trains the cells of a set-up and attacks them, as far as that is left to do."""

KEPT = ("round", "client", "psnr", "ssim", "labels_correct", "labels", "residual", "refusal", "certificates")
"""What the map keeps of a victim's score."""


def fill(
    directory: RunDirectory,
    setup: Setup,
    cells: Sequence[Trained],
    work: Work,
    executor: Executor,
    progress: Progress,
) -> None:
    """Do what is left of the map, and write map.json anew after each point.

    A point whose settings do not go together, or whose training comes to nothing, says so; the others go on.

    Raises:
        BackendError, DataError: the machine or the run directory is to blame, not a point.
    """
    scenario = setup.scenario
    settings = scenario.map
    if settings is None:
        return
    listed = points(scenario)
    found: dict[str, Any] = (
        directory.read_json(NAME)
        if directory.has(NAME)
        else {
            "schema": 1,
            "design": settings.design,
            "axes": [vars(axis) for axis in axes(scenario)],
            "modes": scenario.clients.modes,
            "attacks": list(setup.attacks),
            "listed": [point.name for point in listed],
            "points": [],
            "basin": None,
        }
    )
    done = {point["name"] for point in found["points"]}
    each = len(setup.cells) * (1 + len(setup.attacks))
    title = "map"
    progress.start(title, each * len(listed))
    for number, point in enumerate(listed):
        if point.name not in done:
            listener = Within(progress, title, each * number, point.name)
            entry = (
                _base(directory, setup) if number == 0 else _visit(directory, setup, point, work, listener)
            )
            found["points"].append({"name": point.name, "overrides": point.overrides, **entry})
            directory.write_json(NAME, found)
            directory.event("mapped", point=point.name, failure=entry["failure"])
        shutil.rmtree(directory.path / FOLDER, ignore_errors=True)
        progress.advance(title, each * (number + 1), point.name)
    progress.finish(title)
    if settings.basin and found["basin"] is None:
        found["basin"] = basin.study(directory, setup, cells, executor, progress)
        directory.write_json(NAME, found)


class Within:
    """Listens to one point, and lets the whole map's bar advance with each of its jobs that ends."""

    def __init__(self, progress: Progress, title: str, before: int, note: str) -> None:
        self.progress, self.title, self.done, self.note = progress, title, before, note

    def start(self, job: str, total: int) -> None: ...

    def advance(self, job: str, done: int, note: str = "") -> None: ...

    def finish(self, job: str, note: str = "") -> None:
        self.done += 1
        self.progress.advance(self.title, self.done, self.note)

    def message(self, text: str) -> None:
        self.progress.message(f"{self.note}: {text}")


def _base(directory: RunDirectory, setup: Setup) -> dict[str, Any]:
    return {"cells": [_result(directory, setup, cell) for cell in setup.cells], "failure": None}


def _visit(
    directory: RunDirectory, setup: Setup, point: Point, work: Work, listener: Progress
) -> dict[str, Any]:
    """Train and attack one point; what it found, or why there is nothing to find."""
    try:
        there = setup.again(point.of(setup.scenario))
        place = _place(directory, point)
        work(place, there, listener)
    except (BackendError, DataError):
        raise
    except FedlabError as error:
        return {"cells": [], "failure": str(error)}
    return {"cells": [_result(place, there, cell) for cell in there.cells], "failure": None}


def _place(directory: RunDirectory, point: Point) -> RunDirectory:
    """The point's folder, as a kill may have left it."""
    path = directory.path / FOLDER / files.sha256(point.name.encode())[:16]
    if (path / "manifest.json").is_file():
        place = RunDirectory.open(path)
        place.repair()
        return place
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    place = RunDirectory(path, {"schema": 1, "status": "running"})
    place.update_manifest(name=point.name, cells=[])
    return place


def _result(place: RunDirectory, setup: Setup, cell: Cell) -> dict[str, Any]:
    """What the attacks found in one cell, without their reconstructions."""
    truth = place.read_json(f"truth/{cell.name}.json")
    accuracy = place.read_json("metrics.json")["cells"][cell.name]["accuracy"]
    attacks = {}
    for label in setup.attacks:
        scores = place.read_json(f"attacks/{cell.name}/{label}.json")
        attacks[label] = {
            "error": scores["error"],
            "failed": scores["failed"],
            "victims": [_kept(one) for one in scores["victims"]],
            "control": [_kept(one) for one in scores["control"]],
        }
    return {
        "client_mode": cell.mode,
        "seed": cell.seed,
        "accuracy": accuracy,
        "records": [one["record_ids"] for one in truth["victims"]],
        "attacks": attacks,
    }


def _kept(score: dict[str, Any]) -> dict[str, Any]:
    return {key: score[key] for key in KEPT if key in score}
