"""`fedlab.run`: train every cell, attack what the server saw, score, report."""

from __future__ import annotations

import functools
import hashlib
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlab import plugins, seeds
from fedlab.audit import Victim, archive
from fedlab.errors import BackendError, FedlabError, Interrupted
from fedlab.experiment.attacking import (
    AttackJob,
    Victims,
    attack,
    choose,
    images_of,
    scored,
    threat_model,
)
from fedlab.experiment.cells import Cell, Trained, check_disk, chunk_size, train
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.provenance import describe_data, describe_model, machine, record_hashes, versions
from fedlab.progress import Progress, Quiet
from fedlab.report import AuditReport, build
from fedlab.runtime import Executor, InlineExecutor
from fedlab.scenario import Scenario, load, resolved_toml
from fedlab.strategies import as_aggregator
from fedlab.tasks import Task
from fedlab.tasks.partition import PARTITIONS


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
    settings = load(scenario if task is None else _with_own_task(scenario))
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
        versions=versions(),
        machine=machine(),
        seeds=settings.seeds,
        chunk_size=chunk_size(settings),
        dataset=describe_data(learned),
        model=describe_model(spec.name if task is None else _name(task.network), spec.params, model),
        cells=[],
        weights_sha256={},
        started=_now(),
    )
    directory.event("started", cells=[cell.name for cell in cells])
    with _recorded(directory), _executor(settings) as executor:
        trained = []
        for cell in cells:
            result = train(
                cell,
                settings,
                learned,
                owners[cell.seed],
                defenses[cell.defense],
                combine,
                executor,
                listener,
            )
            guarantee = defenses[cell.defense].guarantee(result.watcher.ledger)
            _keep(directory, result, guarantee.to_dict() if guarantee else None)
            trained.append(result)
        directory.write_json("metrics.json", {"cells": {one.cell.name: one.metrics for one in trained}})
        directory.update_manifest(
            weights_sha256={label: _joint_hash(trained, label) for label in defenses},
        )
        victims = {one.cell.name: _victims(directory, one, settings) for one in trained}
        jobs = [
            AttackJob(
                cell=one.cell.name,
                label=label,
                attack=instance,
                observations=victims[one.cell.name].observations,
                threat=threat_model(settings, one),
                victim=Victim(one.model, one.task.loss, one.task.input_shape, one.task.classes),
                seed=seeds.derive(one.cell.seed, "attacker", one.cell.name),
            )
            for label, instance in attacks.items()
            for one in trained
        ]
        _attack_all(directory, jobs, trained, victims, executor, listener, settings)
        directory.event("finished")
        directory.update_manifest(status="finished", finished=_now())
    with _recorded(directory):
        return build(directory.path)


def _with_own_task(scenario: str | Path | Mapping[str, Any] | Scenario) -> Mapping[str, Any] | Scenario:
    """The scenario with its [task] replaced by what says that the task came from Python."""
    own = {"dataset": "own", "model": "own"}
    if isinstance(scenario, Mapping):
        return {**scenario, "task": own}
    settings = load(scenario)
    return settings.model_copy(update={"task": type(settings.task).model_validate(own)})


def _name(network: object) -> str:
    return str(getattr(network, "__name__", type(network).__name__))


def build_task(scenario: Scenario) -> Task:
    """The scenario's data set and network."""
    train_data, test_data = plugins.build("datasets", scenario.task.dataset)
    spec = scenario.task.model
    plugins.build("models", spec, train_data.shape, train_data.classes)  # a wrong knob fails here, by name
    factory = plugins.load("models", spec.name)
    network = functools.partial(factory, train_data.shape, train_data.classes, **spec.params)
    return Task(train=train_data, test=test_data, network=network)


def divide(scenario: Scenario, task: Task) -> dict[int, Sequence[NDArray[np.int64]]]:
    """Record ids of each client, by seed."""
    if task.owners is not None:
        if len(task.owners) != scenario.clients.count:
            raise FedlabError(
                f"the task brings {len(task.owners)} clients, but clients.count is {scenario.clients.count};"
                " make them equal"
            )
        return dict.fromkeys(scenario.seeds, task.owners)
    partition = scenario.clients.partition
    return {
        seed: PARTITIONS[partition.name](
            task.train,
            scenario.clients.count,
            generator=seeds.numpy_generator(seed, "partition"),
            **partition.params,
        )
        for seed in scenario.seeds
    }


@contextmanager
def _executor(scenario: Scenario) -> Iterator[Executor]:
    runtime = scenario.runtime
    executor: Executor
    if runtime.executor == "inline":
        executor = InlineExecutor()
    else:
        from fedlab.runtime import RayExecutor

        executor = RayExecutor(runtime.num_cpus, runtime.num_gpus, runtime.workers)
    try:
        yield executor
    finally:
        executor.close()


@contextmanager
def _recorded(directory: RunDirectory) -> Iterator[None]:
    """Let the manifest say how it ended, whatever happens."""
    try:
        with _terminable():
            yield
    except KeyboardInterrupt:
        directory.update_manifest(status="interrupted", finished=_now())
        raise Interrupted(
            f"stopped by the user; {directory.path} keeps what was written and is marked interrupted"
        ) from None
    except BaseException as error:
        try:
            directory.update_manifest(status="failed", error=str(error), finished=_now())
        except BackendError:
            pass  # the disk that failed the run cannot take the news either
        raise


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C while the block runs (in the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _keep(directory: RunDirectory, trained: Trained, guarantee: dict[str, Any] | None) -> None:
    """Write what one trained cell left: weights, observations, guarantee, events."""
    name = trained.cell.name
    directory.write_tensors(f"models/{name}/model.safetensors", trained.state)
    archive.save(directory.path / "observations" / name, trained.watcher.observations)
    if guarantee is not None:
        directory.write_json(f"privacy/{name}.json", guarantee)
    for number, client, reason in trained.watcher.failures:
        directory.event("client failed", cell=name, round=number, client=client, reason=reason)
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

    for index, answer in executor.map(attack, jobs, tick):
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
