"""What a run is going to take, before anything starts: `fedlab run --dry-run`.

What a scenario decides is counted (models, messages, trials, bytes of observations); ε is what each defense's
own accountant says of the ledger that the run would write; memory and time are measured on this machine, by
one chunk of clients for a few steps and each attack for a moment. Nothing is written.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from fedlab.errors import FedlabError
from fedlab.experiment.budget import check
from fedlab.experiment.cells import Cell, Parts, Trained
from fedlab.experiment.leaving import trained
from fedlab.experiment.pace import Step, steps_of, time_attacks, time_step
from fedlab.experiment.room import at_once, observed_bytes
from fedlab.experiment.setup import Setup, set_up
from fedlab.experiment.spending import Spending, spending
from fedlab.experiment.trials import Trial, trials_of
from fedlab.scenario import Scenario, load
from fedlab.scenario.points import points

SAMPLED = 1000
"""Clients whose number of records is looked up."""

FORWARD = 1 / 3
"""Of the time that a training step takes for a record, what evaluating one takes."""

ROUND = 0.008
"""Seconds of a round beside its training: messages, aggregation, records (measured: ten small clients)."""


@dataclass(frozen=True)
class Load:
    """One model to train: its rounds, and the training messages that clients are sent for it."""

    cell: str
    rounds: int
    messages: int


@dataclass(frozen=True)
class Attacks:
    """What is tried: the scenario's attacks and those that the audit adds.

    Attributes:
        names: labels, the scenario's first.
        victims: of each cell.
        trials: of one attack on one cell under one threat.
        answers: trials times victims; there are as many controls.
    """

    names: tuple[str, ...]
    victims: int
    trials: int
    answers: int


@dataclass(frozen=True)
class Memory:
    """Bytes: the model, the clients that train as one, and each process.

    Attributes:
        worker: what this process held at most, after a chunk was trained and each attack tried.
        workers: processes that train and attack; None on a cluster of others, which is not asked.
    """

    model: int
    chunk: int
    worker: int
    workers: int | None


@dataclass(frozen=True)
class Seconds:
    """Wall clock, roughly; None where it could not be tried.

    Attributes:
        uncounted: what takes time too, and was not tried.
    """

    training: float | None
    attacks: float | None
    uncounted: tuple[str, ...]


@dataclass(frozen=True)
class Forecast:
    """What a run is going to take.

    Attributes:
        records: least, median and most of a client, of the first `SAMPLED`.
        points: settings of the `[map]`, at each of which all of it is done again; 1 without one.
        observations, models: bytes on the disk.
        limit: bytes that observations may take.
        private: ε of each defense that adds accounted noise.
    """

    name: str
    clients: int
    cohorts: tuple[int, ...]
    records: tuple[int, int, int]
    models: tuple[Load, ...]
    attacks: Attacks
    points: int
    memory: Memory
    observations: int
    limit: int
    weights: int
    seconds: Seconds
    private: tuple[Spending, ...]

    @property
    def messages(self) -> int:
        """Of all models."""
        return self.points * sum(one.messages for one in self.models)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            **asdict(self),
            "messages": self.messages,
            "private": [one.to_dict() for one in self.private],
        }


def forecast(scenario: str | Path | Mapping[str, Any] | Scenario) -> Forecast:
    """What `fedlab.run` is going to take for this scenario; takes a few seconds, and writes nothing.

    Raises:
        ScenarioError, DataError, UsageError, BackendError: what the run would be refused for at its start.
    """
    setup = set_up(load(scenario))
    check(setup)
    settings, cells = setup.scenario, setup.cells
    # One of each strategy with each defense: what cannot be put together fails here, as in a run.
    parts = {(one.strategy, one.defense): setup.parts(one) for one in reversed(cells)}
    owners = setup.owners[settings.seeds[0]]
    records = sorted(len(owners[client]) for client in range(min(len(owners), SAMPLED)))
    tried = [trained(cell, setup, parts[cell.strategy, cell.defense], {}, "") for cell in cells]
    trials = trials_of(setup)
    seconds = _seconds(setup, tried, parts, trials)
    first = parts[cells[0].strategy, cells[0].defense]
    state = sum(4 * value.numel() for value in first.state().values())
    return Forecast(
        name=settings.name,
        clients=settings.clients.count,
        cohorts=tuple(dict.fromkeys(settings.under(one).strategy.cohort for one in settings.labels)),
        records=(records[0], int(median(records)), records[-1]),
        models=tuple(_load(setup, cell, parts[cell.strategy, cell.defense]) for cell in cells),
        attacks=_attacks(setup, tried, trials),
        points=len(points(settings)) if settings.map else 1,
        memory=Memory(state, first.chunking.size, _held(), _workers(settings)),
        observations=int(observed_bytes(settings, setup.model, cells)),
        limit=int(settings.audit.max_disk_mb * 1e6),
        weights=len(cells) * state,
        seconds=seconds,
        private=tuple(spending(setup)),
    )


def _load(setup: Setup, cell: Cell, parts: Parts) -> Load:
    settings = setup.under(cell).strategy
    schedule = getattr(parts.strategy, "schedule", None)
    size = getattr(schedule, "size", None)
    asked = size(setup.scenario.clients.count) if callable(size) else settings.cohort
    return Load(cell.name, settings.rounds, settings.rounds * int(asked) * max(1, len(parts.tasks)))


def _meant(setup: Setup, one: Trained, trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.meant_for(one, setup.defenses[one.cell.defense])]


def _attacks(setup: Setup, tried: Sequence[Trained], trials: Sequence[Trial]) -> Attacks:
    count = sum(len(_meant(setup, one, trials)) for one in tried)
    victims = setup.scenario.audit.victims
    return Attacks(tuple(dict.fromkeys(one.label for one in trials)), victims, count, count * victims)


def _seconds(
    setup: Setup,
    tried: Sequence[Trained],
    parts: Mapping[tuple[str, str], Parts],
    trials: Sequence[Trial],
) -> Seconds:
    """Try a chunk of the first cell whose defense adds no noise (or else of the first), and its attacks."""
    scenario = setup.scenario
    first = next((one for one in tried if not setup.defenses[one.cell.defense].spends), tried[0])
    mine = parts[first.cell.strategy, first.cell.defense]
    workers = _workers(scenario) or 1
    uncounted = ["the report"]
    uncounted += ["the start of Ray"] if scenario.runtime.executor == "ray" else []
    uncounted += ["canaries"] if scenario.privacy.canaries is not None else []
    if setup.several:
        return Seconds(None, None, (*uncounted, "several tasks"))
    try:
        step = time_step(mine, first.cell)
    except FedlabError as error:
        return Seconds(None, None, (*uncounted, str(error)))
    times = len(points(scenario)) if scenario.map else 1
    training = sum(
        _training(setup, one, parts[one.cell.strategy, one.cell.defense], step, workers) for one in tried
    )
    each = time_attacks(setup, first, trials, step.observations)
    known = [each[trial.label] for one in tried for trial in _meant(setup, one, trials)]
    attacks = sum(one for one in known if one is not None) * scenario.audit.victims / workers
    uncounted += [label for label, took in each.items() if took is None]
    return Seconds(times * training, times * attacks, tuple(uncounted))


def _training(setup: Setup, one: Trained, parts: Parts, step: Step, workers: int) -> float:
    """One cell, as if its steps took as long as those of the cell that was tried."""
    settings = setup.under(one.cell).strategy
    size = max(1, parts.chunking.size)
    chunks = -(-max(settings.cohort, at_once(settings)) // size)
    chunk = step.start + steps_of(parts) * step.each
    looks = 1 + settings.rounds // settings.evaluate_every if settings.evaluate_every else 1
    batch = size * max(1, parts.config.batch_size)
    look = FORWARD * len(parts.task.test) * step.each / batch
    return settings.rounds * (ROUND + -(-chunks // workers) * chunk) + looks * look


def _workers(scenario: Scenario) -> int | None:
    """Processes that work at the same time; None on a cluster of which nothing is known."""
    runtime = scenario.runtime
    if runtime.executor == "inline":
        return 1
    if isinstance(runtime.workers, int):
        return runtime.workers
    if runtime.address is not None:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(cores // runtime.num_cpus))


def _held() -> int:
    """Bytes that this process held at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
