"""Fills the map of a scenario: at each point the same clients train and the same victims are attacked.

A point is a small run of its own, in a folder of its own while it lasts, so that whatever a run can do (Ray,
stopping, resuming in the middle) a point can. What it found goes into map.json, and the folder goes away. The
base is the run itself.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from fedlab import files
from fedlab.audit import Attack
from fedlab.errors import BackendError, DataError, FedlabError
from fedlab.experiment import basin
from fedlab.experiment.cells import Cell, Trained
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.setup import Setup
from fedlab.progress import Progress
from fedlab.runtime import Executor
from fedlab.scenario import Scenario
from fedlab.scenario.points import Point, axes, points

NAME = "map.json"
TITLE = "map"
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
    settings = setup.scenario.map
    if settings is None:
        return
    # Whether a record was used is another question, and another scale.
    labels = [label for label, one in setup.attacks.items() if isinstance(one, Attack)]
    plain = setup.scenario.model_copy(
        update={
            "attacks": tuple(spec for spec in setup.scenario.attacks if spec.label in labels),
            # What knowing a defense is worth is asked of the run itself, not of each point.
            "audit": setup.scenario.audit.model_copy(update={"adaptive": False}),
        }
    )
    listed = points(plain)
    found = directory.read_json(NAME) if directory.has(NAME) else _begun(plain, labels, listed)
    done = {point["name"] for point in found["points"]}
    each = len(setup.cells) * (1 + len(labels))
    progress.start(TITLE, each * len(listed))
    for number, point in enumerate(listed):
        if point.name not in done:
            entry: dict[str, Any] = {"name": point.name, "overrides": point.overrides, "failure": None}
            if point.overrides:
                listener = Within(progress, each * number, point.name)
                make = functools.partial(point.of, plain)
                entry |= _visit(_place(directory, point), setup, make, work, listener)
            else:
                entry["cells"] = _results(directory, setup.cells, labels)
            found["points"].append(entry)
            directory.write_json(NAME, found)
            directory.event("mapped", point=point.name, failure=entry["failure"])
            shutil.rmtree(directory.path / FOLDER, ignore_errors=True)
        progress.advance(TITLE, each * (number + 1), point.name)
    progress.finish(TITLE)
    if settings.basin and found["basin"] is None:
        found["basin"] = basin.study(directory, setup, cells, executor, progress)
        directory.write_json(NAME, found)


def _begun(scenario: Scenario, labels: Sequence[str], listed: Sequence[Point]) -> dict[str, Any]:
    """map.json before there is a point."""
    return {
        "schema": 1,
        "design": scenario.map.design if scenario.map else "",
        "axes": [{**vars(axis), "points": [point.name for point in axis.points]} for axis in axes(scenario)],
        "modes": scenario.clients.modes,
        "attacks": labels,
        "listed": [point.name for point in listed],
        "points": [],
        "basin": None,
    }


class Within:
    """Listens to one point, and lets the whole map's bar advance with each of its jobs that ends."""

    def __init__(self, progress: Progress, before: int, note: str) -> None:
        self.progress, self.done, self.note = progress, before, note

    def start(self, job: str, total: int) -> None: ...

    def advance(self, job: str, done: int, note: str = "") -> None: ...

    def finish(self, job: str, note: str = "") -> None:
        self.done += 1
        self.progress.advance(TITLE, self.done, self.note)

    def message(self, text: str) -> None:
        self.progress.message(f"{self.note}: {text}")


def _visit(
    place: RunDirectory, setup: Setup, scenario: Callable[[], Scenario], work: Work, listener: Progress
) -> dict[str, Any]:
    """Train and attack one point; what it found, or why there is nothing to find."""
    try:
        there = setup.again(scenario())
        work(place, there, listener)
    except (BackendError, DataError):
        raise
    except FedlabError as error:
        return {"cells": [], "failure": str(error)}
    return {"cells": _results(place, there.cells, list(there.attacks))}


def _place(directory: RunDirectory, point: Point) -> RunDirectory:
    """The point's folder, as a kill may have left it."""
    path = directory.path / FOLDER / files.sha256(point.name.encode())[:16]
    if (path / "manifest.json").is_file():
        place = RunDirectory.open(path)
        place.repair()
        return place
    shutil.rmtree(path, ignore_errors=True)
    place = RunDirectory(path, {"schema": 1, "status": "running"})
    place.update_manifest(name=point.name, cells=[])
    return place


def _results(place: RunDirectory, cells: Sequence[Cell], labels: Sequence[str]) -> list[dict[str, Any]]:
    """What the attacks found in each cell, without their reconstructions."""
    metrics = place.read_json("metrics.json")["cells"]
    found = []
    for cell in cells:
        truth = place.read_json(f"truth/{cell.name}.json")
        scores = {label: place.read_json(f"attacks/{cell.name}/{label}.json") for label in labels}
        found.append(
            {
                "client_mode": cell.mode,
                "seed": cell.seed,
                "accuracy": metrics[cell.name]["accuracy"],
                "records": [one["record_ids"] for one in truth["victims"]],
                "attacks": {
                    label: {
                        "error": one["error"],
                        "failed": one["failed"],
                        "victims": [_kept(score) for score in one["victims"]],
                        "control": [_kept(score) for score in one["control"]],
                    }
                    for label, one in scores.items()
                },
            }
        )
    return found


def _kept(score: dict[str, Any]) -> dict[str, Any]:
    return {key: score[key] for key in KEPT if key in score}
