"""What must be as it was before a run may go on, so that it ends with the same bits."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from fedlab.errors import BackendError, DataError, UsageError
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.fleets import trace_hashes
from fedlab.experiment.provenance import versions
from fedlab.experiment.setup import Setup
from fedlab.scenario import Scenario, load, resolved_toml

FREE = {
    "runtime": ("executor", "workers", "num_cpus", "placement", "address", "working_dir", "wait"),
    "checkpoint": ("every", "seconds"),
}
"""Keys that change no bit of the result: a run may go on elsewhere."""


WHILE_UNTRAINED = {"runtime": ("num_gpus", "chunk")}
"""Keys that decide how numbers are rounded, so that they are free only until there is a number."""


def untrained(directory: RunDirectory) -> bool:
    """Whether no round has left anything: no checkpoint, no noise, no observation, no model."""
    left = ("checkpoints", "privacy", "observations", "models")
    return not any((directory.path / name).exists() for name in left)


def no_recording(directory: RunDirectory) -> None:
    """Whether a run is anything but what was recorded of a deployment, whose clients are not here.

    Raises:
        UsageError: it is a recording.
    """
    if "deployment" in directory.manifest:
        raise UsageError(
            f"{directory.path} is a recording of a deployment, whose clients are not here. Attack what"
            f" was recorded: fedlab attack {directory.path} --app APP; or record another run: fedlab tap"
        )


def no_app(directory: RunDirectory, command: str) -> None:
    """Whether a scenario says all that a run needs; an app has to be run by itself.

    Raises:
        UsageError: the run is an audit of a Flower app, or a recording of a deployment.
    """
    no_recording(directory)
    if "asked" in directory.manifest:
        raise UsageError(
            f"{directory.path} is an audit of a Flower app; expected a run of a scenario. Give the command"
            f" fedlab {command} {directory.path}, or from Python fedlab.apps.{command}_app"
        )


def same_scenario(directory: RunDirectory, overrides: Sequence[str]) -> Scenario:
    """The run's scenario, with `overrides` of keys that do not change the result.

    Raises:
        UsageError: scenario.toml was changed, or an override would change the result; with a diff.
        DataError: the scenario that the run began with, or a trace of devices, is missing or changed.
    """
    began = directory.manifest.get("scenario")
    if not isinstance(began, dict):
        raise DataError(f"{directory.path}: the manifest holds no scenario; run again")
    if not directory.has("scenario.toml"):
        raise DataError(
            f"{directory.path} is damaged: scenario.toml is missing; restore it from a copy (manifest.json"
            ' holds the same as JSON, under "scenario"), or run again'
        )
    before = Scenario.model_validate(began)
    _same_traces(directory, before)
    after = load(directory.path / "scenario.toml", overrides)
    tables: list[Mapping[str, Sequence[str]]] = [FREE, WHILE_UNTRAINED] if untrained(directory) else [FREE]
    if _deciding(before, tables) != _deciding(after, tables):
        old, new = (resolved_toml(one).splitlines() for one in (before, after))
        diff = "\n".join(difflib.unified_diff(old, new, "as the run began", "now", lineterm="", n=0))
        free = ", ".join(f"{table}.{key}" for one in tables for table, keys in one.items() for key in keys)
        raise UsageError(
            f"{directory.path}: the scenario is not the one that this run began with:\n{diff}\n"
            f"Put scenario.toml back, or start a new run with the changed one. Only {free} may differ"
        )
    return after


def same_objects(directory: RunDirectory, given: Mapping[str, object | None]) -> None:
    """Whether what came from Python, by name ("task", "aggregator"), is there again, and nothing else.

    Raises:
        UsageError: it is not.
    """
    began = directory.manifest.get("objects", {})
    for name, thing in given.items():
        if name in began and thing is None:
            raise UsageError(
                f"{directory.path}: the {name} of this run ({began[name]}) came from Python and stands in no"
                f" file; resume it from Python: fedlab.resume({str(directory.path)!r}, {name}=...)"
            )
        if name not in began and thing is not None:
            raise UsageError(f"{directory.path}: this run has no {name} from Python; leave {name}= out")


def same_data(directory: RunDirectory, setup: Setup) -> None:
    """Whether the records are the same, bit for bit.

    Raises:
        DataError: they are not.
    """
    before, now = directory.manifest["dataset"], setup.data
    if before["sha256"] != now["sha256"]:
        raise DataError(
            f"the data set {now['name']} is not the one that {directory.path} began with: its sha256 is"
            f" {now['sha256']}, expected {before['sha256']}; restore it, or start a new run"
        )


def same_versions(directory: RunDirectory, *, force: bool) -> None:
    """Whether the software is the same; another torch may round differently.

    Raises:
        BackendError: it is not, and `force` is not given.
    """
    before: dict[str, Any] = directory.manifest["versions"]
    now = versions()
    changed = [
        f"{name} was {before.get(name, 'absent')}, is {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed and not force:
        raise BackendError(
            f"{directory.path} began with other versions, which may give other bits: {'; '.join(changed)}."
            " Install those, or accept it with --force (force=True)"
        )


def _same_traces(directory: RunDirectory, scenario: Scenario) -> None:
    try:
        now = trace_hashes(scenario.devices)
    except OSError as error:
        raise DataError(
            f"the trace {error.filename} with which {directory.path} began cannot be read ({error.strerror});"
            " restore it, or resume from the directory in which the run was started"
        ) from error
    before = directory.manifest.get("traces_sha256", {})
    changed = [path for path in now if before.get(path) != now[path]]
    if changed:
        raise DataError(f"the trace {changed[0]} was changed since {directory.path} began; restore it")


def _deciding(scenario: Scenario, free: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, Any]:
    """What the result depends on."""
    data = scenario.model_dump()
    for one in free:
        for table, keys in one.items():
            data[table] = {key: value for key, value in data[table].items() if key not in keys}
    return data
