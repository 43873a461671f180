"""A run is a sequence of stages, each of which is skipped when what it makes is there already.

Train each cell (done: the manifest lists it), attack each cell with each attack (done: its file is
there), report (done: the manifest says "finished"). A run and its resumption are the same walk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fedlab import seeds
from fedlab.audit import Attack, Victim, archive
from fedlab.errors import DataError
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
from fedlab.experiment.cells import Cell, Trained
from fedlab.experiment.checkpoints import clear
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.ending import Stop, now, recorded
from fedlab.experiment.mapping import fill
from fedlab.experiment.provenance import record_hashes
from fedlab.experiment.setup import Setup
from fedlab.experiment.training import Training, checkpoints_of, trained
from fedlab.progress import Progress
from fedlab.report import AuditReport, build
from fedlab.runtime import Executor, InlineExecutor, single_thread
from fedlab.scenario import Scenario


def proceed(directory: RunDirectory, setup: Setup, progress: Progress) -> AuditReport:
    """Do what is left of a run.

    Raises:
        FedlabError: see `fedlab.errors`; the manifest says how the run ended.
    """
    with recorded(directory) as stop, single_thread():
        with _executor(setup.scenario, progress) as executor, stop.installed():

            def work(place: RunDirectory, what: Setup, listener: Progress) -> list[Trained]:
                cells = [_train(cell, what, place, executor, listener, stop) for cell in what.cells]
                place.update_manifest(weights_sha256=_joint_hashes(cells))
                _attack(place, what, cells, executor, listener)
                return cells

            cells = work(directory, setup, progress)
            if setup.scenario.map is not None:
                fill(directory, setup, cells, work, executor, progress)
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
        where = f"joining Ray at {runtime.address}" if runtime.address else "starting Ray"
        progress.message(f"{where}; --set runtime.executor=inline does without")
        from fedlab.runtime import RayExecutor

        try:
            executor = RayExecutor(
                runtime.num_cpus, runtime.num_gpus, runtime.workers, runtime.placement, runtime.address
            )
        except SystemExit as exit:  # SIGTERM, for which Ray has a handler of its own while it starts
            raise KeyboardInterrupt from exit
    try:
        yield executor
    finally:
        executor.close()


def _train(
    cell: Cell, setup: Setup, directory: RunDirectory, executor: Executor, progress: Progress, stop: Stop
) -> Trained:
    """The trained cell; one that was trained before is looked up."""
    entry = next((one for one in directory.manifest["cells"] if one["name"] == cell.name), None)
    if entry is None:
        return Training(cell, setup, directory, executor, progress).run(stop)
    metrics = directory.read_json("metrics.json").get("cells", {}).get(cell.name)
    if metrics is None:
        raise DataError(
            f"{directory.path}: the manifest says that {cell.name} is trained, but metrics.json lacks it;"
            " restore it from a copy, or run again"
        )
    progress.message(f"train {cell.name}: done before")
    clear(checkpoints_of(directory, cell))  # a kill may have come in between
    return trained(cell, setup, setup.parts(cell), metrics, str(entry["weights_sha256"]))


def _attack(
    directory: RunDirectory,
    setup: Setup,
    cells: Sequence[Trained],
    executor: Executor,
    progress: Progress,
) -> None:
    """Run the attacks that are left wherever there is room, and write each answer's scores as it comes."""
    left = [
        (label, one)
        for label in setup.attacks
        for one in cells
        if not directory.has(f"{_attack_path(one.cell, label)}.json")
    ]
    open_cells = {one.cell.name: one for _, one in left}
    # Without attacks, the truth is still written: the report says what was observed.
    due = [
        one
        for one in cells
        if one.cell.name in open_cells or not directory.has(f"truth/{one.cell.name}.json")
    ]
    victims = {one.cell.name: _victims(directory, one, setup.scenario) for one in due}
    jobs = [
        _job(label, setup.attacks[label], one, victims[one.cell.name], setup.scenario) for label, one in left
    ]
    cell_of = {one.cell.name: one.cell for one in cells}
    plugin = {spec.label: spec.name for spec in setup.scenario.attacks}
    started: set[int] = set()
    finished: set[int] = set()

    def tick(index: int, done: int, total: int) -> None:
        if index in finished:  # news from a worker may come after its answer
            return
        if index not in started:
            started.add(index)
            progress.start(jobs[index].title, total)
        progress.advance(jobs[index].title, done)

    for index, answer in executor.map(attack, jobs, tick, lost):
        finished.add(index)
        job, truths = jobs[index], victims[jobs[index].cell].truths
        cell = cell_of[job.cell]
        path = _attack_path(cell, job.label)
        about = {"plugin": plugin[job.label], **cell.about}
        images = images_of(answer, truths) if setup.scenario.audit.include_samples else {}
        if images:
            directory.write_tensors(f"{path}.safetensors", images)
        directory.write_json(f"{path}.json", scored(job, answer, truths) | about)
        directory.event("attacked", cell=job.cell, attack=job.label, error=answer.error)
        if index not in started:
            progress.start(job.title, 1)
        progress.finish(job.title, answer.error or "")


def _attack_path(cell: Cell, label: str) -> str:
    return f"attacks/{cell.name}/{label}"


def _victims(directory: RunDirectory, trained: Trained, scenario: Scenario) -> Victims:
    """Choose a cell's victims among the observations on disk, and write the truth beside them."""
    name = trained.cell.name
    victims = choose(trained, archive.load(directory.path / "observations" / name), scenario)
    if scenario.audit.include_samples:
        directory.write_tensors(f"truth/{name}.safetensors", victims.images())
    directory.write_json(f"truth/{name}.json", victims.to_dict(record_hashes))
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


def _joint_hashes(cells: Sequence[Trained]) -> dict[str, str]:
    """One hash over all cells that were trained with the same, in the order of the scenario."""
    hashes: dict[str, list[str]] = {}
    for one in cells:
        hashes.setdefault(one.cell.trained, []).append(one.weights_sha256)
    return {
        label: mine[0] if len(mine) == 1 else hashlib.sha256("".join(mine).encode()).hexdigest()
        for label, mine in hashes.items()
    }
