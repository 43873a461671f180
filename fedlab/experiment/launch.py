"""`fedlab.run` and `fedlab.resume`: prepare a run directory, or open one, and do what is left."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedlab.errors import UsageError
from fedlab.experiment import resuming
from fedlab.experiment.budget import check
from fedlab.experiment.cells import Cell
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.ending import now
from fedlab.experiment.fleets import trace_hashes
from fedlab.experiment.provenance import describe_model, machine, versions
from fedlab.experiment.setup import Setup, set_up, with_own_task
from fedlab.experiment.stages import proceed
from fedlab.progress import Progress, Quiet
from fedlab.report import AuditReport
from fedlab.scenario import Scenario, load, resolved_toml
from fedlab.tasks import Task


def run(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    *,
    out: Path | str | None = None,
    task: Task | None = None,
    aggregator: object | None = None,
    local_rule: object | None = None,
    server_optimizer: object | None = None,
    strategy: object | None = None,
    progress: Progress | None = None,
    command: str = "",
    grid: Callable[[Cell], Grid] | None = None,
) -> AuditReport:
    """Run a scenario from training to report.

    Args:
        scenario: a file, the name of a shipped scenario, a table, or a `Scenario`.
        out: a new or empty directory; `runs/<name>-<n>` unless given.
        task: your own data and network, instead of the scenario's `[task]`.
        aggregator: your own aggregator, instead of the scenario's: a function
            (deltas, weights) -> delta, or an object with `aggregate(updates, state)`.
        local_rule: your own `fedlab.clients.LocalRule`, instead of the scenario's.
        server_optimizer: your own object with `step(delta, state)`, instead of the scenario's.
        strategy: any Flower `Strategy`, as it is, instead of the scenario's: an instance, of which each cell
            gets a copy, or a class or function that makes one for each cell. A function with arguments
            gets the parts of a composition, as a strategy found by name does.
        grid: makes the Grid on which a cell's clients are, instead of a simulation: see
            `fedlab.experiment.flower`. Their chunks, devices and resumption are then its own business.

    Raises:
        ScenarioError: every mistake in the scenario.
        BudgetExhausted: training stopped before it would have exceeded `privacy.budget`; the run is done.
        DataError, BackendError, FedlabError: see `fedlab.errors`.
        Interrupted: the user stopped the run; `resume` goes on with it.
    """
    if not isinstance(scenario, str | Path | Mapping | Scenario):
        raise UsageError(
            f"fedlab.run got a {type(scenario).__name__}; expected a file, the name of a scenario,"
            " a table or a Scenario"
        )
    settings = load(scenario if task is None else with_own_task(scenario))
    if settings.sweep is not None:
        raise UsageError(
            f"{settings.name} has a [sweep], which is many runs: fedlab sweep runs them (from Python:"
            " fedlab.sweeps.sweep); for one run, take [sweep] out"
        )
    setup = set_up(
        settings,
        task,
        aggregator,
        grid,
        local_rule=local_rule,
        server_optimizer=server_optimizer,
        strategy=strategy,
    )
    check(setup)
    description = _description(setup)  # what cannot be put together fails here, before anything is written
    directory = RunDirectory.create(Path(out) if out is not None else None, settings.name)
    with directory.locked():
        directory.write_text("scenario.toml", resolved_toml(settings))
        directory.update_manifest(**description, command=command, started=now())
        directory.event("started", cells=[cell.name for cell in setup.cells])
        return proceed(directory, setup, progress or Quiet())


def resume(
    path: Path | str,
    *,
    overrides: Sequence[str] = (),
    force: bool = False,
    task: Task | None = None,
    aggregator: object | None = None,
    local_rule: object | None = None,
    server_optimizer: object | None = None,
    strategy: object | None = None,
    grid: Callable[[Cell], Grid] | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Go on with a run that was interrupted, failed or killed, to the bits that it would have reached.

    A run that is finished is left as it is.

    Args:
        path: the run directory.
        overrides: `"a.b=v"` for what does not change the result, such as `"runtime.executor=inline"`.
        force: go on with other versions of the software too; the bits may then differ.
        task, aggregator, local_rule, server_optimizer, strategy, grid: as given to `run`, if they were.

    Raises:
        UsageError: no such directory, another process works on it, or the scenario was changed (with a diff).
        DataError: no run, or a file of it or the data set was altered.
        BackendError: other versions of the software, without `force`.
        BudgetExhausted: as for `run`.
    """
    listener = progress or Quiet()
    directory = RunDirectory.open(Path(path))
    if directory.manifest["status"] == "finished":
        listener.message(f"{directory.path} is finished; nothing is left to do")
        return AuditReport.load(directory.path)
    resuming.no_app(directory, "resume")
    with directory.locked():
        directory = RunDirectory.open(directory.path)  # as its last owner left it
        directory.repair()
        parts = {"local_rule": local_rule, "server_optimizer": server_optimizer, "strategy": strategy}
        resuming.same_objects(directory, {"task": task, "aggregator": aggregator, "grid": grid, **parts})
        resuming.same_versions(directory, force=force)
        setup = set_up(resuming.same_scenario(directory, overrides), task, aggregator, grid, **parts)
        resuming.same_data(directory, setup)
        if resuming.untrained(directory):  # what may have changed only now counts from the start
            directory.write_text("scenario.toml", resolved_toml(setup.scenario))
            directory.update_manifest(**_description(setup))
        directory.event("resumed", overrides=list(overrides), versions=versions())
        directory.update_manifest(status="running", error=None, finished=None)
        return proceed(directory, setup, listener)


def _description(setup: Setup) -> dict[str, Any]:
    """What the manifest says about a run before it starts."""
    settings, spec = setup.scenario, setup.scenario.task.model
    # The first of each strategy with each defense: none is to be refused after others were trained.
    sizes: dict[tuple[str, str], int] = {}
    for cell in setup.cells:
        if (cell.strategy, cell.defense) not in sizes:
            sizes[cell.strategy, cell.defense] = setup.parts(cell).chunking.size
    chunks = {label: sizes[label, settings.defenses[0].label] for label in settings.labels}
    return {
        "name": settings.name,
        "claim": settings.claim,
        "objects": dict(setup.objects),
        "versions": versions(),
        "machine": machine(),
        "scenario": tomllib.loads(resolved_toml(settings)),
        "seeds": settings.seeds,
        "chunk_size": chunks[settings.labels[0]],
        "dataset": setup.data,
        "traces_sha256": trace_hashes(settings.devices),
        "model": describe_model(setup.objects.get("task", spec.name), spec.params, setup.model),
        "cells": [],
        "weights_sha256": {},
    }
