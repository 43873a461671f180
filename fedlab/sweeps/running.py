"""Run the cells of a sweep: those that are not finished, as many at a time as the machine holds.

Each is a process of its own, so that nothing that becomes of one touches the others.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlab.errors import Interrupted, UsageError
from fedlab.experiment.ending import Stop
from fedlab.experiment.resuming import FREE
from fedlab.report.sweep import SweepReport, build
from fedlab.report.sweep_cells import cell_row
from fedlab.report.sweep_words import in_short
from fedlab.scenario import Scenario, load
from fedlab.scenario.sweep import Cell, plan
from fedlab.sweeps.children import Child
from fedlab.sweeps.directory import SweepDirectory
from fedlab.sweeps.room import Room, machine, taken
from fedlab.sweeps.view import Silent, View

DONE = (0, 4, 7)
"""Exit codes of a cell that is finished: ended well, a gate failed, the privacy budget is spent."""
INTERRUPTED = 5
BEAT = 0.05
"""Seconds between two looks at the processes."""
GRACE = 5.0
"""Seconds that a cell has to write down what it has, once it is to stop at once."""


def sweep(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    *,
    overrides: Sequence[str] = (),
    axes: Sequence[str] = (),
    out: Path | str | None = None,
    workers: int | None = None,
    fail_fast: bool = False,
    view: View | None = None,
    command: str = "",
) -> SweepReport:
    """Run every cell of a scenario's `[sweep]`, or what is left of them.

    Args:
        scenario: a file, the name of a shipped scenario, a table, or a `Scenario`.
        overrides: `"a.b=v"`, for all cells; axes: `"a.b=1,2,3"`, beside those of `[sweep]`.
        out: a new or empty directory, or that of the same sweep; `runs/<name>-sweep-<n>` unless given.
        workers: cells at a time, at most; as many as the machine's cores hold unless given.
        fail_fast: stop at the first cell that fails.

    Raises:
        ScenarioError: every mistake of every cell, before anything runs.
        UsageError: the directory holds something else, or another process works on it.
        Interrupted: the user stopped it; the same call, or `resume`, goes on with it.
    """
    planned = plan(scenario, overrides, axes)
    directory = SweepDirectory.create(Path(out) if out is not None else None, planned, command)
    return _proceed(directory, workers=workers, fail_fast=fail_fast, view=view or Silent())


def resume(
    path: Path | str,
    *,
    overrides: Sequence[str] = (),
    force: bool = False,
    workers: int | None = None,
    fail_fast: bool = False,
    view: View | None = None,
) -> SweepReport:
    """Go on with a sweep: finished cells stay, interrupted ones go on, failed ones are tried again.

    Args:
        overrides: `"a.b=v"` for what does not change the result, such as `"runtime.executor=inline"`.
        force: go on with other versions of the software too; the bits may then differ.

    Raises:
        as `sweep`; and DataError: no sweep, or a damaged one.
    """
    free = [f"{table}.{key}" for table, keys in FREE.items() for key in keys]
    for one in overrides:
        if one.partition("=")[0].strip() not in free:
            raise UsageError(f"--set {one}: expected a key that changes no result: {', '.join(free)}")
    more = [word for one in overrides for word in ("--set", one)]
    return _proceed(
        SweepDirectory.open(Path(path)),
        workers=workers,
        fail_fast=fail_fast,
        view=view or Silent(),
        more=more,
        overrides=overrides,
        force=force,
    )


def _proceed(
    directory: SweepDirectory,
    *,
    workers: int | None,
    fail_fast: bool,
    view: View,
    more: Sequence[str] = (),
    overrides: Sequence[str] = (),
    force: bool = False,
) -> SweepReport:
    stop = Stop()
    with directory.locked(), stop.installed():
        try:
            work = _Work(directory, view, workers, fail_fast, [*more], force, overrides)
            with stop.patient(work.stopping):
                work.all(stop)
        except KeyboardInterrupt:
            stop.asked = True
        try:
            report = build(directory.path)
        except KeyboardInterrupt:  # whoever goes on builds it
            stop.asked = True
        if stop.asked:
            raise Interrupted(
                f"stopped by the user. To go on from there: fedlab resume {directory.path}"
            ) from None
        return report


class _Work:
    """What is under way."""

    def __init__(
        self,
        directory: SweepDirectory,
        view: View,
        workers: int | None,
        fail_fast: bool,
        more: list[str],
        force: bool,
        overrides: Sequence[str],
    ) -> None:
        self.directory, self.view, self.fail_fast = directory, view, fail_fast
        self.more, self.force, self.overrides = more, force, overrides
        self.most = workers or len(directory.sweep.cells)
        self.whole = machine()
        self.running: dict[str, tuple[Child, Cell, Room]] = {}
        self.told: set[str] = set()
        self.stopped = False

    def all(self, stop: Stop) -> None:
        """Every cell, until all are through or `stop` is asked for. No process is left, however it ends."""
        cells = self.directory.sweep.cells
        todo = deque(cell for cell in cells if self.directory.status(cell) != "finished")
        self.view.begin([cell.name for cell in todo], len(cells) - len(todo))
        try:
            while todo or self.running:
                failed = self._gather()
                if (failed and self.fail_fast) or stop.asked:
                    todo.clear()
                    break
                self._start(todo)
                self.view.tick()
                time.sleep(BEAT)
            self._interrupt()
            while self.running:  # rounds in progress may end
                self._gather()
                self.view.tick()
                time.sleep(BEAT)
        finally:
            self._end()

    def stopping(self) -> None:
        """Say what the first Ctrl-C does."""
        if self.running:
            many = len(self.running)
            who = "a cell finishes its round" if many == 1 else f"{many} cells finish their round"
            self.view.message(f"stopping: {who}; press Ctrl-C again to stop at once")

    def _start(self, todo: deque[Cell]) -> None:
        """As many of the next cells as there is room for."""
        for _ in range(len(todo)):
            cell = todo[0]
            takes = taken(self._runtime(cell), self.whole)
            free = self.whole
            for _, _, taken_by in self.running.values():
                free = free.without(taken_by)
            if len(self.running) >= self.most or not free.holds(takes):
                return
            todo.popleft()
            if self.directory.held(cell):
                todo.append(cell)
                if cell.name not in self.told:
                    self.told.add(cell.name)
                    self.view.message(f"{cell.name}: another process works on it; its turn comes after that")
                continue
            if self.directory.status(cell) == "finished":  # by that process
                self.view.end(cell.name, "finished", self._note(cell))
                continue
            words = [*self.directory.words(cell), *self.more]
            words += ["--force"] if self.force and words[0] == "resume" else []
            self.directory.event("started", cell=cell.name)
            # A cell without Ray computes in one thread; what it is made of would take all cores.
            alone = {} if "OMP_NUM_THREADS" in os.environ or takes.cores > 1 else {"OMP_NUM_THREADS": "1"}
            child = Child(words, self.directory.log(cell), alone)
            self.running[cell.name] = child, cell, takes
            self.view.start(cell.name, child.said)

    def _runtime(self, cell: Cell) -> Any:
        return (load(cell.scenario, self.overrides) if self.overrides else cell.scenario).runtime

    def _gather(self) -> bool:
        """Take note of the cells that ended; whether one of them failed."""
        failed = False
        for name, (child, cell, _) in list(self.running.items()):
            code = child.ended()
            if code is not None:
                del self.running[name]
                failed |= self._ended(child, cell, code)
        return failed

    def _ended(self, child: Child, cell: Cell, code: int) -> bool:
        if code in DONE and self.directory.status(cell) == "finished":
            self.directory.event("finished", cell=cell.name, code=code)
            self.view.end(cell.name, "finished", self._note(cell))
            return False
        if code == INTERRUPTED or (self.stopped and code == -signal.SIGTERM):  # while it was still loading
            self.directory.event("interrupted", cell=cell.name)
            self.view.end(cell.name, "interrupted", "")
            return False
        error = child.error() or "it said nothing"
        if code < 0:
            error = f"ended by signal {-code}" + (" (for want of memory?)" if code == -9 else "")
        self.directory.event("failed", cell=cell.name, code=code, error=error)
        self.view.end(cell.name, "failed", error.partition("\n")[0])
        return True

    def _note(self, cell: Cell) -> str:
        return in_short(cell_row(self.directory.path, {"name": cell.name, "settings": cell.settings}))

    def _interrupt(self) -> None:
        self.stopped = True
        for child, _, _ in self.running.values():
            child.interrupt()

    def _end(self) -> None:
        """Stop at once what still runs, and end it with all that it started."""
        self._interrupt()
        until = time.monotonic() + GRACE
        try:
            while self.running and time.monotonic() < until:
                for name, (child, _, _) in list(self.running.items()):
                    if child.ended() is not None:
                        self._cut_off(name)
                time.sleep(BEAT)
        finally:
            for name, (child, _, _) in list(self.running.items()):
                child.kill()
                self._cut_off(name)

    def _cut_off(self, name: str) -> None:
        del self.running[name]
        self.directory.event("interrupted", cell=name)
        self.view.end(name, "interrupted", "")
