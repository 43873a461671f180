"""How long it takes, by trying: one chunk of real clients for a step or two, and each attack for a moment.

An attack says how far it is (`report`), so it is stopped as soon as its speed is known. What cannot be tried
in a moment (membership, malicious servers, an attack that says nothing) is named, and not counted.

Seconds are those of the processor, on one thread: what a core takes that nobody else uses.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

from fedlab.audit import Attack, KnownConfig, Observation
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.clients.plan import plan_batches, steps_per_round
from fedlab.clients.tracing import CALLS_BEFORE
from fedlab.errors import FedlabError
from fedlab.experiment.attacking import AttackJob, attack, choose, public
from fedlab.experiment.cells import Cell, Parts, Trained
from fedlab.experiment.pairing import facing
from fedlab.experiment.setup import Setup
from fedlab.experiment.trials import Trial
from fedlab.runtime import single_thread
from fedlab.seeds import derive
from fedlab.tasks import State

CALLS = CALLS_BEFORE + 4
"""Trials of a step: frequent shapes become faster after so many (`fedlab.clients.tracing`)."""

WARM = 0.8
"""Seconds that those may take; what is slow is tried twice only."""

PATIENCE, LONGEST = 1.2, 2.4
"""Seconds that all attacks together are meant to be tried for, and after which no other is begun."""

MORE = 3
"""Steps of the second trial beyond the first: what they take is a step's own time."""

SAMPLED = 200
"""Clients whose number of steps is looked up."""


class _Enough(BaseException):
    """The speed is known. No Exception: an attack that catches those must not catch this."""


@dataclass(frozen=True)
class Step:
    """Seconds of one chunk of clients: `start` for anything at all, `each` for every step.

    `observations` are what a server would see of them.
    """

    start: float
    each: float
    observations: Sequence[Observation] = field(default=(), repr=False)


def time_step(parts: Parts, cell: Cell) -> Step:
    """Train one chunk for a few steps.

    Raises:
        FedlabError: it cannot be tried so.
    """
    records = parts.owners
    size = max(1, parts.chunking.size)
    clients = [one for one in range(min(len(records), SAMPLED)) if len(records[one])][:size]
    training = LocalTraining(
        parts.model,
        parts.task.loss,
        parts.task.train,
        parts.rule,
        parts.config,
        cell.seed,
        stacked=parts.chunking.stacked,
        chunk=size if parts.chunking.stacked else 0,
    )
    before = parts.model.state()

    def take(steps: int) -> tuple[float, State]:
        jobs = []
        for client in clients:
            plan = plan_batches(len(records[client]), parts.config, cell.seed, 1, client)
            jobs.append(ClientJob(client, 1, before, {}, records[client], (plan * steps)[:steps]))
        began = time.process_time()
        groups = [jobs] if parts.chunking.stacked else [[job] for job in jobs[:1]]
        results = [training(group) for group in groups]
        took = (time.process_time() - began) * (1 if parts.chunking.stacked else len(jobs))
        return took, results[0].state

    with single_thread():
        try:
            after = take(1)[1]  # the first takes longer than any other
            took = [take(1)[0]]
            while len(took) < CALLS and sum(took) < WARM:
                took.append(take(1)[0])
            start, each = 0.0, min(took)
            if each < WARM / MORE:
                more = min(take(1 + MORE)[0] for _ in range(2)) - each
                start, each = max(each - more / MORE, 0.0), max(more / MORE, 0.1 * each)
        except (RuntimeError, ValueError, KeyError) as error:  # a rule that needs what its server sends
            raise FedlabError(f"one step cannot be tried by itself: {error}") from error
    seen = [_observation(parts, before, after, row, client) for row, client in enumerate(clients)]
    return Step(start, each, seen if parts.chunking.stacked else seen[:1])


def steps_of(parts: Parts) -> float:
    """Steps that a chunk takes in a round: as many as its client with the most records, on average."""
    owners = parts.owners
    every = max(1, len(owners) // SAMPLED)
    steps = [steps_per_round(len(owners[client]), parts.config) for client in range(0, len(owners), every)]
    size = max(1, parts.chunking.size) if parts.chunking.stacked else 1
    return mean(max(steps[at : at + size]) for at in range(0, len(steps), size))


def time_attacks(
    setup: Setup, trained: Trained, trials: Sequence[Trial], seen: Sequence[Observation]
) -> dict[str, float | None]:
    """Seconds per victim of each attack, its control included, by label; None where it is not known.

    What else an attacker knows makes little difference to its time: each is tried under one threat.
    """
    firsts: dict[str, Trial] = {}
    for trial in trials:
        firsts.setdefault(trial.label, trial)
    found: dict[str, float | None] = dict.fromkeys(firsts)
    began = time.process_time()
    for place, (label, trial) in enumerate(firsts.items()):
        spent = time.process_time() - began
        if isinstance(trial.attack, Attack) and trial.attack.server == "curious" and spent < LONGEST:
            job = _job(setup, trained, trial, trial.attack, seen)
            share = (PATIENCE - spent) / (len(firsts) - place)
            found[label] = None if job is None else _timed(job, share)
    return found


def _job(
    setup: Setup, trained: Trained, trial: Trial, attack: Attack, seen: Sequence[Observation]
) -> AttackJob | None:
    """The trial on one victim; None if there is none."""
    one = facing(setup.under(trained.cell), trial.under)
    one = one.model_copy(update={"audit": one.audit.model_copy(update={"victims": 1})})
    victims = choose(trained, seen, one)
    if not victims.observations:
        return None
    victim, threat = public(trained, victims, one)
    seed = derive(trained.cell.seed, "attacker", trained.cell.name)
    return AttackJob(
        trained.cell.name, trial.label, attack, victims.observations, threat, victim, seed, trial.under
    )


def _timed(job: AttackJob, share: float) -> float | None:
    """Seconds that a job takes, from as much of it as can be done in a share of the time."""
    began = time.process_time()
    reports: list[tuple[float, float]] = []  # (seconds, done of the whole)

    def report(done: int, total: int) -> None:
        reports.append((time.process_time() - began, done / max(total, 1)))
        if reports[-1][0] > share and reports[-1][1] > 0.0:
            raise _Enough

    try:
        with single_thread():
            answer = attack(job, report)
    except _Enough:
        return _extrapolated(reports)
    return None if answer.failed else time.process_time() - began


def _extrapolated(reports: Sequence[tuple[float, float]]) -> float:
    """When the whole is done, by the first and the last report: before the first, things are made ready."""
    (start, ready), (now, done) = reports[0], reports[-1]
    return start + (1.0 - ready) * (now - start) / (done - ready) if done > ready else now / done


def _observation(parts: Parts, before: State, after: State, row: int, client: int) -> Observation:
    names = [name for name in parts.model.parameter_names if name not in parts.personal]
    mine = {name: after[name][row] for name in after}
    return Observation(
        round=1,
        client=client,
        before={name: before[name] for name in names},
        update={name: mine[name] - before[name] for name in names},
        buffers_before=parts.model.buffers_of(before),
        buffers_after=parts.model.buffers_of(mine),
        config=KnownConfig.all_of(parts.config),
        examples=len(parts.owners[client]),
    )
