"""Several tasks in one cell: put together, measured, and when each of them is as good as it has to be."""

from __future__ import annotations

import hashlib
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from fedlab import plugins
from fedlab.clients.app import CohortApp
from fedlab.clients.plan import steps_per_round
from fedlab.clients.rules import ServerSide
from fedlab.clients.several import SeveralApp, part_of
from fedlab.clients.stacking import Chunking
from fedlab.errors import UsageError
from fedlab.experiment.cells import Cell, Parts
from fedlab.experiment.evaluation import evaluate, per_client
from fedlab.experiment.milestones import Milestones, cost, met
from fedlab.experiment.own import Own, make_strategy
from fedlab.scenario import Scenario
from fedlab.scenario.strategy import Strategy as Settings
from fedlab.scenario.strategy import Target
from fedlab.snapshot import Snapshot
from fedlab.strategies import Aggregator, Composition
from fedlab.strategies.several import TaskServer
from fedlab.tasks import State

LOOKED_AT = 1000
"""Clients of whom it is looked up how many steps they take."""


@runtime_checkable
class Simultaneous(Protocol):
    """A strategy that trains several tasks, and can do without those that are finished."""

    def finish(self, labels: Iterable[str]) -> None:
        """These tasks are as good as they have to be."""


def alone(scenario: Scenario) -> Scenario:
    """A task's scenario under the plain synchronous strategy: of it, a learner and clients are taken.

    Its cohort, by which work is cut, is the task's share of the clients that are at work.
    """
    settings = scenario.strategy
    working = settings.options.get("concurrency", settings.cohort)
    share = max(1, (working if isinstance(working, int) else settings.cohort) // max(1, len(scenario.tasks)))
    plain = {"name": "fedavg", "options": {}, "cohort": share, "over_selection": 1.0, "quorum": 1}
    return scenario.model_copy(update={"strategy": settings.model_copy(update=plain)})


def together(
    cell: Cell, scenario: Scenario, each: Mapping[str, Parts], aggregator: Aggregator, own: Own
) -> Parts:
    """One cell of several tasks, each put together as if it were alone.

    Raises:
        UsageError: a task that needs its model, its clients or its server for itself.
    """
    settings, apps, servers = scenario.strategy, dict[str, CohortApp](), dict[str, TaskServer]()
    for label, parts in each.items():
        if parts.personal:
            raise UsageError(
                f"the local rule {settings.local_rule.name} leaves a part of the model with the clients,"
                " which is not supported on several tasks yet; run each task alone"
            )
        if not isinstance(parts.app, CohortApp) or not isinstance(parts.strategy, Composition):
            raise UsageError("defenses on several tasks are not supported yet; run each task alone")
        apps[label] = parts.app
        held = itertools.islice(parts.owners, LOOKED_AT)
        steps = statistics.fmean(steps_per_round(len(ids), parts.config) for ids in held)
        servers[label] = TaskServer(parts.strategy.learner, parts.config.learning_rate, steps)
    optimizer = own.server_optimizer or plugins.build("server_optimizers", settings.server_optimizer)
    arguments: dict[str, Any] = {
        "aggregator": aggregator,
        "optimizer": optimizer,
        "cohort": settings.cohort,
        "seed": cell.seed,
        "parameters": [
            f"{label}/{name}" for label, one in each.items() for name in one.model.parameter_names
        ],
        "tasks": servers,
    }
    defaults = {"over_selection": 1.0, "quorum": 1}
    arguments |= {
        key: getattr(settings, key) for key, one in defaults.items() if getattr(settings, key) != one
    }
    if settings.sampling.name != "uniform" or settings.sampling.params:
        arguments["sampler"] = plugins.build("samplers", settings.sampling)
        arguments["records"] = [
            sum(map(len, ids)) for ids in zip(*(one.owners for one in each.values()), strict=True)
        ]
    cuts = {label: one.chunking for label, one in each.items()}
    return replace(
        next(iter(each.values())),
        app=SeveralApp(apps, {label: cut.size for label, cut in cuts.items()}),
        strategy=make_strategy(settings, arguments, own, ServerSide()),
        chunking=Chunking(sum(cut.size for cut in cuts.values()), any(cut.stacked for cut in cuts.values())),
        tasks=each,
    )


@dataclass(frozen=True)
class Measured:
    """What a model can do on its test set; or those of several tasks on theirs, on average.

    Attributes:
        loss: None where it is not finite.
        clients: one row per client.
        tasks: accuracy and loss of each of several.
    """

    loss: float | None
    accuracy: float
    clients: list[dict[str, Any]]
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)


def measure(parts: Parts, state: State, clients: Sequence[int]) -> Measured:
    """Test all tasks; `clients` are those of whom a row is wanted."""
    tasks: dict[str, dict[str, Any]] = {}
    rows: list[list[dict[str, Any]]] = []
    for label, one in parts.tasks.items():
        loss, accuracy, by_class = evaluate(one.model, one.task, part_of(state, label))
        tasks[label] = {"accuracy": accuracy, "loss": loss}
        rows.append(per_client(one.task, one.owners, by_class, (), clients))
    losses = [one["loss"] for one in tasks.values()]
    return Measured(
        None if None in losses else statistics.fmean(losses),
        statistics.fmean(one["accuracy"] for one in tasks.values()),
        [_over_tasks(row) for row in zip(*rows, strict=True)],
        tasks,
    )


def _over_tasks(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    known = [one["accuracy"] for one in rows if one["accuracy"] is not None]
    return {
        "client": rows[0]["client"],
        "records": sum(one["records"] for one in rows),
        "accuracy": statistics.fmean(known) if known else None,
    }


class TaskMilestones(Milestones):
    """The evaluations of several tasks: training ends when each has met its target.

    Args:
        targets: by label; None for a task that goes on to the end.

    Attributes:
        met: what had been spent when a task met its target, in the order in which they did.
    """

    def __init__(self, settings: Settings, targets: Mapping[str, Target | None]) -> None:
        super().__init__(settings)
        self.targets = dict(targets)
        self.met: dict[str, dict[str, Any]] = {}

    def add(self, row: dict[str, Any]) -> None:
        for label, figures in row["tasks"].items():
            if label not in self.met and met(self.targets[label], figures):
                self.met[label] = cost(row)
        super().add(row)

    def _met(self, row: dict[str, Any]) -> bool:
        return len(self.met) == len(self.targets)

    def over(self, now: float) -> str:
        if self.reached is not None:
            return f"the last of {len(self.targets)} targets was met in round {self.reached['round']}"
        return super().over(now)

    def rows(self, measured: Measured) -> list[dict[str, Any]]:
        """For metrics.json: what became of each task."""
        return [
            {
                "label": label,
                "target": None if target is None else target.model_dump(exclude_none=True),
                **measured.tasks[label],
                "reached": self.met.get(label),
            }
            for label, target in self.targets.items()
        ]

    def snapshot(self) -> Snapshot:
        whole = super().snapshot()
        whole.values["met"] = list(self.met.items())
        return whole

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken."""
        super().restore(snapshot)
        self.met = dict(snapshot.values["met"])


def milestones(scenario: Scenario) -> Milestones:
    """Of a cell's scenario, with one task or several."""
    settings = scenario.strategy
    if not scenario.tasks:
        return Milestones(settings)
    return TaskMilestones(settings, {one.label: one.target or settings.target for one in scenario.tasks})


def described(data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The data of several tasks as one entry of the manifest."""
    names = {
        key: " + ".join(dict.fromkeys(str(one[key]) for one in data)) for key in ("name", "source", "licence")
    }
    joint = hashlib.sha256("".join(one["sha256"] for one in data).encode()).hexdigest()
    counts = {key: [one[key] for one in data] for key in ("train", "test")}
    return {
        **names,
        "sha256": joint,
        "synthetic": any(one["synthetic"] for one in data),
        **{key: None if None in values else sum(values) for key, values in counts.items()},
        "shape": [],
        "classes": None,
    }
