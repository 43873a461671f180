"""`fedlab.run`: train every cell, attack what the server saw, score, report."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlab import plugins, seeds
from fedlab.audit import Attack, Victim, archive
from fedlab.errors import UsageError
from fedlab.experiment.attacking import (
    AttackJob,
    Victims,
    attack,
    choose,
    images_of,
    lost,
    scored,
    threat_model,
)
from fedlab.experiment.cells import Cell, Trained, check_disk, chunk_size, train
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.ending import now, recorded, terminable
from fedlab.experiment.provenance import describe_data, describe_model, machine, record_hashes, versions
from fedlab.experiment.setup import build_task, divide, network_name, with_own_task
from fedlab.progress import Progress, Quiet
from fedlab.report import AuditReport, build
from fedlab.runtime import Executor, InlineExecutor, single_thread
from fedlab.scenario import Scenario, load, resolved_toml
from fedlab.strategies import as_aggregator
from fedlab.tasks import Task


def run(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    *,
    out: Path | str | None = None,
    task: Task | None = None,
    aggregator: object | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> AuditReport:
    """Run a scenario from training to report.

    Args:
        scenario: a file, the name of a shipped scenario, a table, or a `Scenario`.
        out: a new or empty directory; `runs/<name>-<n>` unless given.
        task: your own data and network, instead of the scenario's `[task]`.
        aggregator: your own aggregator, instead of the scenario's: a function
            (deltas, weights) -> delta, or an object with `aggregate(updates, state)`.

    Raises:
        ScenarioError: every mistake in the scenario.
        DataError, BackendError, FedlabError: see `fedlab.errors`.
        Interrupted: the user stopped the run; its manifest says so.
    """
    if not isinstance(scenario, str | Path | Mapping | Scenario):
        raise UsageError(
            f"fedlab.run got a {type(scenario).__name__}; expected a file, the name of a scenario,"
            " a table or a Scenario"
        )
    if task is not None and not isinstance(task, Task):
        raise UsageError(f"task is a {type(task).__name__}; expected a fedlab.tasks.Task")
    settings = load(scenario if task is None else with_own_task(scenario))
    listener = progress or Quiet()
    learned = task or build_task(settings)
    owners = divide(settings, learned)
    defenses = {spec.label: plugins.build("defenses", spec) for spec in settings.defenses}
    attacks = {spec.label: plugins.build("attacks", spec) for spec in settings.attacks}
    combine = as_aggregator(aggregator or plugins.build("aggregators", settings.strategy.aggregator))
    cells = [
        Cell(label, mode, seed)
        for label in defenses
        for mode in settings.clients.modes
        for seed in settings.seeds
    ]
    model = learned.model(seeds.derive(cells[0].seed, "init"))
    for defense in defenses.values():  # what cannot be built must fail before anything is written
        replace(learned, network=defense.network(learned.network)).model(0)
    check_disk(settings, model, len(cells))
    directory = RunDirectory(Path(out) if out is not None else None, settings.name)
    directory.write_text("scenario.toml", resolved_toml(settings))
    spec = settings.task.model
    directory.update_manifest(
        name=settings.name,
        claim=settings.claim,
        command=command,
        objects={  # what came from Python and stands in no file
            **({"task": network_name(task)} if task is not None else {}),
            **({"aggregator": _name(aggregator)} if aggregator is not None else {}),
        },
        versions=versions(),
        machine=machine(),
        seeds=settings.seeds,
        chunk_size=chunk_size(settings),
        dataset=describe_data(learned),
        model=describe_model(spec.name if task is None else network_name(task), spec.params, model),
        cells=[],
        weights_sha256={},
        started=now(),
    )
    directory.event("started", cells=[cell.name for cell in cells])
    with recorded(directory), single_thread():
        with _executor(settings, listener) as executor, terminable():
            trained = []
            for cell in cells:
                defense, mine = defenses[cell.defense], owners[cell.seed]
                failed = functools.partial(_failed, directory, cell)
                result = train(cell, settings, learned, mine, defense, combine, executor, listener, failed)
                guarantee = defense.guarantee(result.watcher.ledger)
                _keep(directory, result, guarantee.to_dict() if guarantee else None)
                trained.append(result)
            directory.write_json("metrics.json", {"cells": {one.cell.name: one.metrics for one in trained}})
            hashes = {label: _joint_hash(trained, label) for label in defenses}
            directory.update_manifest(weights_sha256=hashes)
            victims = {one.cell.name: _victims(directory, one, settings) for one in trained}
            jobs = [
                _job(label, instance, one, victims[one.cell.name], settings)
                for label, instance in attacks.items()
                for one in trained
            ]
            _attack_all(directory, jobs, trained, victims, executor, listener, settings)
        report = build(directory.path, status="finished")
        directory.event("finished")
        directory.update_manifest(status="finished", finished=now())
        return report


@contextmanager
def _executor(scenario: Scenario, progress: Progress) -> Iterator[Executor]:
    runtime = scenario.runtime
    executor: Executor
    if runtime.executor == "inline":
        executor = InlineExecutor()
    else:
        progress.message("starting Ray; --set runtime.executor=inline does without")
        from fedlab.runtime import RayExecutor

        executor = RayExecutor(runtime.num_cpus, runtime.num_gpus, runtime.workers)
    try:
        yield executor
    finally:
        executor.close()


def _failed(directory: RunDirectory, cell: Cell, round: int, client: int, reason: str) -> None:
    directory.event("client failed", cell=cell.name, round=round, client=client, reason=reason)


def _keep(directory: RunDirectory, trained: Trained, guarantee: dict[str, Any] | None) -> None:
    """Write what one trained cell left: weights, observations, guarantee, events."""
    name = trained.cell.name
    directory.write_tensors(f"models/{name}/model.safetensors", trained.state)
    archive.store(directory.path / "observations" / name, trained.watcher.observations)
    if guarantee is not None:
        directory.write_json(f"privacy/{name}.json", guarantee)
    directory.event("trained", cell=name, accuracy=trained.metrics["accuracy"])
    entry = {
        "name": name,
        "defense": trained.cell.defense,
        "client_mode": trained.cell.mode,
        "seed": trained.cell.seed,
        "weights_sha256": trained.weights_sha256,
    }
    directory.update_manifest(cells=[*directory.manifest["cells"], entry])


def _victims(directory: RunDirectory, trained: Trained, scenario: Scenario) -> Victims:
    """Choose a cell's victims among the observations on disk, and write the truth beside them."""
    name = trained.cell.name
    victims = choose(trained, archive.load(directory.path / "observations" / name), scenario)
    directory.write_json(f"truth/{name}.json", victims.to_dict(record_hashes))
    if scenario.audit.include_samples:
        directory.write_tensors(f"truth/{name}.safetensors", victims.images())
    return victims


def _job(label: str, instance: Attack, trained: Trained, victims: Victims, scenario: Scenario) -> AttackJob:
    """One attack on one cell, with what that attacker holds."""
    task, threat = trained.task, threat_model(scenario, trained)
    return AttackJob(
        cell=trained.cell.name,
        label=label,
        attack=instance,
        observations=victims.observations,
        threat=threat,
        victim=Victim(trained.model, task.loss, task.input_shape, task.classes),
        seed=seeds.derive(trained.cell.seed, "attacker", trained.cell.name),
    )


def _attack_all(
    directory: RunDirectory,
    jobs: Sequence[AttackJob],
    trained: Sequence[Trained],
    victims: Mapping[str, Victims],
    executor: Executor,
    progress: Progress,
    scenario: Scenario,
) -> None:
    """Run the jobs wherever there is room, and write each answer's scores as it comes."""
    cells = {one.cell.name: one.cell for one in trained}
    plugin = {spec.label: spec.name for spec in scenario.attacks}
    started: set[int] = set()

    def tick(index: int, done: int, total: int) -> None:
        if index not in started:
            started.add(index)
            progress.start(jobs[index].title, total)
        progress.advance(jobs[index].title, done)

    for index, answer in executor.map(attack, jobs, tick, lost):
        job, truths = jobs[index], victims[jobs[index].cell].truths
        cell = cells[job.cell]
        path = f"attacks/{job.cell}/{job.label}"
        about = {
            "plugin": plugin[job.label],
            "defense": cell.defense,
            "client_mode": cell.mode,
            "seed": cell.seed,
        }
        images = images_of(answer, truths) if scenario.audit.include_samples else {}
        if images:
            directory.write_tensors(f"{path}.safetensors", images)
        directory.write_json(f"{path}.json", scored(job, answer, truths) | about)
        directory.event("attacked", cell=job.cell, attack=job.label, error=answer.error)
        if index not in started:
            progress.start(job.title, 1)
        progress.finish(job.title, answer.error or "")


def _joint_hash(trained: Sequence[Trained], defense: str) -> str:
    """One hash over all cells of a defense, in the order of the scenario."""
    mine = [one.weights_sha256 for one in trained if one.cell.defense == defense]
    return mine[0] if len(mine) == 1 else hashlib.sha256("".join(mine).encode()).hexdigest()


def _name(given: object) -> str:
    return str(getattr(given, "__name__", type(given).__name__))
