"""A run is a sequence of stages, each of which is skipped when what it makes is there already.

Train each cell (done: the manifest lists it), attack each cell with each attack (done: its file is
there), check what each claims (likewise), report (done: the manifest says "finished"). A run and its
resumption are the same walk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fedlab.errors import BudgetExhausted, DataError
from fedlab.experiment.cells import Cell, Trained
from fedlab.experiment.checkpoints import clear
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.ending import Stop, now, recorded
from fedlab.experiment.leaving import trained
from fedlab.experiment.mapping import fill
from fedlab.experiment.proving import prove
from fedlab.experiment.setup import Setup
from fedlab.experiment.training import Training, checkpoints_of
from fedlab.experiment.trials import attack_cells, trials_of
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
        with executor_of(setup.scenario, progress) as executor, stop.installed():

            def work(place: RunDirectory, what: Setup, listener: Progress) -> list[Trained]:
                cells = [_train(cell, what, place, executor, listener, stop) for cell in what.cells]
                place.update_manifest(weights_sha256=_joint_hashes(cells))
                attack_cells(place, what, cells, trials_of(what), executor, listener)
                prove(place, what, cells, executor, listener)
                return cells

            cells = work(directory, setup, progress)
            if setup.scenario.map is not None:
                fill(directory, setup, cells, work, executor, progress)
        report = build(directory.path, status="finished")
        directory.event("finished")
        directory.update_manifest(status="finished", finished=now())
    stopped = [one for one in cells if one.metrics.get("budget")]
    if stopped:
        raise _spent(report, stopped)
    return report


def _spent(report: AuditReport, cells: Sequence[Trained]) -> BudgetExhausted:
    """What a run ends with of which cells stopped for want of privacy budget."""
    told = [f"  {one.cell.name}: {one.metrics['ended']}" for one in cells]
    return BudgetExhausted(
        "training stopped before the round that would have exceeded its privacy budget:\n"
        + "\n".join(told)
        + "\nAttacks and report are done, of the models as they were then; resuming goes no further. To train"
        " on, start a new run with a larger privacy.budget, more noise, fewer rounds or fewer steps a round."
        f"\n{report.html}",
        report,
    )


@contextmanager
def executor_of(scenario: Scenario, progress: Progress) -> Iterator[Executor]:
    """Where the scenario's jobs run, for as long as the block does."""
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
                runtime.num_cpus,
                runtime.num_gpus,
                runtime.workers,
                runtime.placement,
                runtime.address,
                runtime.working_dir,
                runtime.wait,
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


def _joint_hashes(cells: Sequence[Trained]) -> dict[str, str]:
    """One hash over all cells that were trained with the same, in the order of the scenario."""
    hashes: dict[str, list[str]] = {}
    for one in cells:
        hashes.setdefault(one.cell.trained, []).append(one.weights_sha256)
    return {
        label: mine[0] if len(mine) == 1 else hashlib.sha256("".join(mine).encode()).hexdigest()
        for label, mine in hashes.items()
    }
