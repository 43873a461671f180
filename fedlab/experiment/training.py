"""Trains one cell, round by round, so that it can be killed at any time and go on from there.

After each round, in this order: the privacy journal (before the model is used), the observations,
and, when one is due, a checkpoint. What a checkpoint holds is what the next round depends on: the
model, the strategy, the Grid with its clock and its clients, and the counts for the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import cast

from flwr.serverapp import Grid

from fedlab.audit import archive
from fedlab.errors import BudgetExhausted, FedlabError, UsageError
from fedlab.experiment.cells import Cell, Trained
from fedlab.experiment.charging import charges
from fedlab.experiment.checkpoints import Checkpoints
from fedlab.experiment.diary import Diary
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.ending import Stop
from fedlab.experiment.leaving import leave
from fedlab.experiment.measuring import Examiner
from fedlab.experiment.planned import Plan
from fedlab.experiment.setup import Setup
from fedlab.experiment.several import Measured, Simultaneous, TaskMilestones, milestones
from fedlab.experiment.traffic import Traffic
from fedlab.experiment.watch import Watcher
from fedlab.experiment.world import attacked, global_draws, simulation, watched
from fedlab.privacy.ledger import Journal
from fedlab.progress import Progress
from fedlab.runtime import Executor, SimulationGrid, client_of, quiet_logger
from fedlab.runtime.arrays import array_record, tensors
from fedlab.runtime.devices import sample_nominal
from fedlab.snapshot import Resumable, Snapshot
from fedlab.strategies.asynchronous import Buffered
from fedlab.strategies.rounds import Round, rounds
from fedlab.tasks import State
from fedlab.tasks.population import sizes

SAMPLED = 500
"""Devices whose speed is looked at before an asynchronous strategy starts."""

DISCARDED = "discarded"
"""What became of a trip whose update was too stale."""


class Training:
    """One cell in training.

    Attributes:
        done: rounds that are finished.
        state: the model after them.
        ended: why training stopped before its last round; "" if it did not.
    """

    def __init__(
        self, cell: Cell, setup: Setup, directory: RunDirectory, executor: Executor, progress: Progress
    ) -> None:
        quiet_logger()
        self.cell, self.setup, self.directory, self.progress = cell, setup, directory, progress
        self.diary = Diary(directory, progress, cell.name)
        self.title = self.diary.title
        self.scenario = scenario = setup.under(cell)
        self.owners, self.defense = setup.owners[cell.seed], setup.defenses[cell.defense]
        self.adversaries = setup.adversaries[cell.seed]
        self.parts = setup.parts(cell)
        self.grid: Grid = (
            simulation(cell, scenario, self.parts, self.owners, executor)
            if setup.grid is None
            else setup.grid(cell)
        )
        fleet = None
        if isinstance(self.grid, SimulationGrid):
            fleet, self.grid.idle = self.grid.fleet, self.diary.idle
        self.traffic = Traffic(self.grid, fleet, cell.seed)
        if isinstance(self.parts.strategy, Buffered):
            self.parts.strategy.thrown = lambda node: self.traffic.unused([client_of(node)], DISCARDED)
        self.journal = Journal(
            directory.path / "privacy" / f"{cell.name}.journal.jsonl", secure=self.parts.federation.secure
        )
        plan = Plan(self.parts.rule, self.parts.config, sizes(self.parts.owners))
        self.watcher = Watcher(
            self.parts.model,
            self.parts.config,
            () if self.parts.tasks else scenario.audit.rounds,
            self.diary.failed,
            self.journal,
            self._rejected,
            self.diary.missed,
            sums=self.defense.sees == "sums",
            plan=plan,
            recalled=isinstance(self.grid, SimulationGrid),
        )
        self.charges = charges(self.parts, self.defense, self.journal, plan, scenario.privacy.budget)
        learner = getattr(self.parts.strategy, "learner", None)
        if learner is not None:
            learner.charge, learner.combined = self.charges.charge, self.watcher.combined
        self.checkpoints = Checkpoints(
            checkpoints_of(directory, cell), scenario.checkpoint.every, scenario.checkpoint.seconds
        )
        self.state: State = self.parts.state()
        self.examiner = Examiner(
            self.parts, self.owners, self.adversaries, self.grid, self.watcher, scenario.strategy.deadline
        )
        self.done, self.skipped = 0, 0
        self.train_loss: float | None = None
        self.milestones = milestones(scenario)
        self.ended = ""

    def run(self, stop: Stop) -> Trained:
        """Train to the end, from the last checkpoint if there is one; writes all that the cell leaves.

        Raises:
            FedlabError: no client ever sent a usable update.
            UsageError: an interrupted training with noise, on a Grid of real clients.
            KeyboardInterrupt: the user stopped it; what was done is in a checkpoint.
        """
        total = self.scenario.strategy.rounds
        self.progress.start(self.title, total)
        resumable = self.resumable()
        if resumable:
            self._restore()
        elif self.journal.events and not (isinstance(self.grid, SimulationGrid) or self.journal.secure):
            # Real clients answer anew, and the same noise on other answers would give both away.
            raise UsageError(
                f"{self.title} was interrupted after it had spent privacy, and cannot go on from there: on a"
                " deployed Grid its rounds would be run again, with the same noise on other updates. Start a"
                " new run with another seed; what was spent stands in this one's privacy folder"
            )
        for caution in (*self.defense.cautions(self.parts.federation), *self._cautions()):
            self.diary.caution(caution)
        keeps = resumable and self.scenario.checkpoint.every > 0
        patient = stop.patient(self.diary.stopping) if keeps else nullcontext()
        with patient, global_draws(self.cell) as begin:
            begin(self.done + 1)
            self.ended = self.milestones.over(self.traffic.now)  # of a run that was killed at its end
            for round in () if self.ended else self.charges.affordable(self._rounds()):
                note = self._after(round)
                begin(self.done + 1)
                stopping = stop.asked
                if keeps and (stopping or self.checkpoints.due(self.done)):
                    self.checkpoints.save(self.done, self.snapshot())
                self.progress.advance(self.title, self.done, note)
                if stopping:
                    raise KeyboardInterrupt
                self.ended = self.milestones.over(self.traffic.now)
                if self.ended:
                    break
            exhausted = self.charges.exhausted
            self.ended = self.ended or str(exhausted or "") or getattr(self.parts.strategy, "ended", "")
            if self.ended:
                self.diary.ended(self.done, self.ended)
            if exhausted is not None and not self.done:
                raise BudgetExhausted(
                    f"{self.title}: {self.ended}. Raise it, add noise, or take fewer steps a round"
                )
            if self.ended and not self.done:
                raise FedlabError(f"{self.title}: not one model was made of all replies: {self.ended}")
            result = self._finish()
            if stop.asked:
                raise KeyboardInterrupt
        return result

    def resumable(self) -> bool:
        """Whether this cell can be resumed in the middle; if not, `fedlab resume` trains it again."""
        for part in (self.parts.strategy, self.grid):
            if not isinstance(part, Resumable):
                reason = f"{type(part).__name__} has no snapshot() and restore()"
                self.diary.event("no checkpoints", reason=reason)
                return False
        return True

    def snapshot(self) -> Snapshot:
        """All that the next round depends on."""
        whole = Snapshot.of(
            {
                "strategy": cast(Resumable, self.parts.strategy).snapshot(),
                "grid": cast(Resumable, self.grid).snapshot(),
                "watcher": self.watcher.snapshot(),
                "traffic": self.traffic.snapshot(),
                "milestones": self.milestones.snapshot(),
                "model": Snapshot(self.state),
            }
        )
        whole.values |= {
            "names": list(self.state),
            "done": self.done,
            "skipped": self.skipped,
            "train_loss": self.train_loss,
        }
        return whole

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken."""
        cast(Resumable, self.parts.strategy).restore(snapshot.get("strategy"))
        cast(Resumable, self.grid).restore(snapshot.get("grid"))
        self.watcher.restore(snapshot.get("watcher"))
        self.traffic.restore(snapshot.get("traffic"))
        self.milestones.restore(snapshot.get("milestones"))
        saved = snapshot.get("model").tensors
        values = snapshot.values
        self.state = {name: saved[name] for name in values["names"]}  # in the model's own order
        self.done, self.skipped = values["done"], values["skipped"]
        self.train_loss = values["train_loss"]

    def _restore(self) -> None:
        snapshot = self.checkpoints.load(self.diary.damaged)
        if snapshot is not None:
            self.restore(snapshot)
            self.diary.goes_on(self.done)
            self.progress.advance(self.title, self.done)

    def _rounds(self) -> Iterator[Round]:
        scenario, settings = self.scenario, self.scenario.strategy
        grid = attacked(self.traffic, self.cell, scenario, self.parts, self.adversaries)
        grid = self.defense.grid(grid, self.parts.federation)
        shown: Grid = watched(grid, scenario, self.parts.strategy, self.watcher)
        return rounds(
            self.parts.strategy,
            self.charges.guarded(shown),
            array_record(self.state),
            first=self.done + 1,
            last=settings.rounds,
            timeout=settings.deadline,
            enough=settings.cohort if settings.over_selection > 1.0 else None,
            received=lambda number: self.journal.flush(),
        )

    def _after(self, round: Round) -> str:
        """Keep what the round left; returns a note for people."""
        self.done, self.state = round.number, tensors(round.arrays)
        if not round.updated:
            self.skipped += 1
            reasons = (
                getattr(self.parts.strategy, "why_skipped", ""),
                self.diary.waited,
                self.watcher.why_lost(round.number),
                "the strategy made no model of the replies",
            )
            self.diary.skipped(round.number, next(filter(None, reasons)))
        if seen := self.watcher.take():
            archive.add(self.directory.path / "observations" / self.cell.name, seen)
        found = round.train.get("train-loss") if round.train else None
        self.train_loss = None if found is None else float(str(found))
        last = self.done == self.scenario.strategy.rounds
        skip = getattr(self.parts.strategy, "why_skipped", "")
        self.diary.give_up_if_hopeless(self.watcher, self.done, self.skipped, last, skip)
        self.diary.waited = ""
        note = self._counts(round)
        if self.milestones.due(self.done):
            measured = self.examiner.measure(self.state, self.done, each=False)
            self._evaluated(measured)
            note += f", accuracy {measured.accuracy:.3f}"
        return note

    def _counts(self, round: Round) -> str:
        """`8 clients, 1 failed, 1 rejected, 2 late`"""
        cohort, lost = self.scenario.strategy.cohort, self.watcher.lost(round.number)
        took = round.train.get("participants") if round.train else None
        if took is None:  # the strategy does not say
            took = max(0, cohort - lost["failed"] - lost["rejected"] - lost["late"]) if round.updated else 0
        return ", ".join([f"{took} clients", *(f"{count} {word}" for word, count in lost.items() if count)])

    def _evaluated(self, found: Measured) -> None:
        entry = {"round": self.done, "accuracy": found.accuracy, "loss": found.loss}
        tasks = {"tasks": found.tasks} if found.tasks else {}
        self.milestones.add(entry | {"train_loss": self.train_loss} | tasks | self.traffic.now_row())
        if isinstance(self.milestones, TaskMilestones) and isinstance(self.parts.strategy, Simultaneous):
            self.parts.strategy.finish(self.milestones.met)

    def _finish(self) -> Trained:
        measured = self.examiner.measure(self.state, self.done, each=True)
        self._evaluated(measured)
        result = leave(self, measured)
        self.progress.finish(self.title, f"accuracy {measured.accuracy:.3f}")
        return result

    def _cautions(self) -> list[str]:
        """Settings of an asynchronous strategy that are allowed, and seldom meant."""
        strategy, grid = self.parts.strategy, self.grid
        if not isinstance(strategy, Buffered) or not isinstance(grid, SimulationGrid):
            return []
        found = strategy.cautions(sample_nominal(grid.fleet, grid.seed, SAMPLED))
        if strategy.concurrency > grid.fleet.count:
            found.append(
                f"concurrency = {strategy.concurrency} clients are to train at once, but there are"
                f" {grid.fleet.count} (clients.count): updates will be less stale than expected"
            )
        return found

    def _rejected(self, round: int, client: int, kind: str, reason: str) -> None:
        self.diary.rejected(round, client, kind, reason)
        self.traffic.unused([client])


def checkpoints_of(directory: RunDirectory, cell: Cell) -> Path:
    """Where a cell's checkpoints are while it trains."""
    return directory.path / "checkpoints" / cell.name
