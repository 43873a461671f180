"""A recording in its run directory: written down as a run without attacks, and read again for them."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlab.apps.asked import Asked, plain, toml_of
from fedlab.apps.tap import CELL, NAME
from fedlab.apps.trying import ACTING, AS_IT_IS
from fedlab.audit import Observation, acting, archive
from fedlab.errors import DataError, UsageError
from fedlab.experiment.cells import Cell
from fedlab.experiment.directory import RunDirectory
from fedlab.scenario import Scenario


@dataclass(frozen=True, eq=False)
class Recording:
    """What a tap has kept.

    Attributes:
        about: what deployment.json holds.
        seen: updates by the names of their messages, by round, then client.
        told: scalars of the message that each answers, in their order; metrics: those of the reply.
    """

    about: Mapping[str, Any]
    seen: Sequence[Observation]
    told: Sequence[Mapping[str, Any]]
    metrics: Sequence[Mapping[str, Any]]

    @classmethod
    def load(cls, directory: Path) -> Recording:
        """Read what a tap wrote.

        Raises:
            DataError: a file is gone, damaged, or does not fit the others.
        """
        about = _about(directory)
        kept = about.get("kept", [])
        folder = directory / "observations" / CELL
        seen = archive.load(folder) if kept else []
        places = [(one.round, one.client) for one in seen]
        if places != [(one["round"], one["client"]) for one in kept]:
            raise DataError(
                f"{directory}: {NAME} and the observations tell of different updates; restore them from a"
                " copy, or record again"
            )
        return cls(about, seen, [one["told"] for one in kept], [one["metrics"] for one in kept])


def is_recording(directory: Path) -> bool:
    """Whether a run directory was made by `fedlab tap`."""
    return (directory / NAME).is_file()


def scenario_of(
    about: Mapping[str, Any], mode: str = "train", known: Mapping[str, Any] | None = None
) -> Scenario:
    """A recording as a scenario: what is known of the deployment, and nothing else."""
    kept = Counter(one["round"] for one in about.get("kept", []))
    asked = Asked(
        name=plain(str(about.get("app") or "tap").rpartition("/")[2]),
        clients=max(1, int(about.get("clients", 1))),
        observe=tuple(about.get("observe") or (1,)),
        attacks=(),
    )
    cohort = max(kept.values(), default=None)
    return asked.scenario(
        mode, known or {}, attacked=False, rounds=int(about.get("rounds", 0)), cohort=cohort
    )


def described(directory: RunDirectory) -> None:
    """Write down what a report rests on; what there is of a recording that was cut short."""
    if not is_recording(directory.path):
        return
    recording = Recording.load(directory.path)
    about, seen = recording.about, recording.seen
    scenario = scenario_of(about)
    text = toml_of(scenario, {})
    directory.write_text("scenario.toml", text)
    measured = {
        "accuracy": None,
        "loss": None,
        "rounds": [],
        "asked": about["replies"],
        "failures": about["failed"],
    }
    directory.write_json("metrics.json", {"cells": {CELL: measured}})
    nobody = {"victims": [], "observed": len(seen), "empty": 0, "eligible": 0}
    directory.write_json(f"truth/{CELL}.json", nobody)
    _note_signs(directory, seen)
    cell = Cell(AS_IT_IS, "train", 0)
    directory.update_manifest(
        name=scenario.name,
        scenario=tomllib.loads(text),
        dataset={"name": "the clients' own"},
        cells=[{"name": CELL, **cell.about}],
    )


def _about(directory: Path) -> dict[str, Any]:
    if not is_recording(directory):
        raise UsageError(f"{directory}: no recording of a deployment (no {NAME}); fedlab tap makes one")
    return RunDirectory(directory, {}).read_json(NAME)


def _note_signs(directory: RunDirectory, seen: Sequence[Observation]) -> None:
    """Which mechanisms act on the updates; how clients step is not known."""
    if seen:
        directory.write_json(ACTING, acting.as_json(acting.alike(seen), plain=False))
