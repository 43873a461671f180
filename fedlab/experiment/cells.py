"""One trained cell: a defense, a client mode and a seed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedlab import plugins, seeds
from fedlab.audit import Defense
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.app import CohortApp, with_mods
from fedlab.clients.config import Mode
from fedlab.clients.stacking import Chunking, chunking
from fedlab.errors import UsageError
from fedlab.scenario import Scenario
from fedlab.scenario.schema import Strategy as StrategySettings
from fedlab.strategies import SGD, Aggregator
from fedlab.tasks import FunctionalModel, Task


@dataclass(frozen=True)
class Cell:
    """What one training run is, by name."""

    defense: str
    mode: Mode
    seed: int

    @property
    def name(self) -> str:
        return f"{self.defense}-{self.mode}-s{self.seed}"


@dataclass(frozen=True)
class Trained:
    """A cell that is trained: what its attackers and its scorer need to know about it.

    What else it left behind lies in the run directory.
    """

    cell: Cell
    task: Task
    model: FunctionalModel
    config: ClientConfig
    owners: Sequence[NDArray[np.int64]]
    metrics: dict[str, Any]
    weights_sha256: str


@dataclass(frozen=True)
class Parts:
    """What a cell is made of, before it is trained; the same on any Grid.

    Attributes:
        chunking: how cohorts are cut; a function of the scenario alone, so that workers change no bit.
    """

    task: Task
    model: FunctionalModel
    config: ClientConfig
    app: ClientApp
    strategy: Strategy
    chunking: Chunking


def assemble(
    cell: Cell,
    scenario: Scenario,
    task: Task,
    owners: Sequence[NDArray[np.int64]],
    defense: Defense,
    aggregator: Aggregator,
) -> Parts:
    """The cell's clients and its strategy, with the defense in its places."""
    settings, clients = scenario.strategy, scenario.clients
    config = defense.config(
        ClientConfig(
            mode=cell.mode,
            batch_size=clients.batch_size,
            local_steps=clients.local_steps,
            local_epochs=clients.local_epochs,
            learning_rate=clients.learning_rate,
            momentum=clients.momentum,
            weight_decay=clients.weight_decay,
        )
    )
    task = replace(task, network=defense.network(task.network))
    federation = Federation(tuple(len(ids) for ids in owners), settings.rounds, config)
    rule = defense.local_rule(LocalRule(), federation)
    model = task.model(seeds.derive(cell.seed, "init"))
    strategy = defense.strategy(_strategy(settings, aggregator, cell.seed, model))
    cut = chunking(model, config, max(federation.records), settings.cohort, scenario.runtime.chunk)
    device = "cuda" if scenario.runtime.num_gpus > 0 else "cpu"
    app = CohortApp(task, owners, rule, config, cell.seed, stacked=cut.stacked, device=device)
    return Parts(task, model, config, with_mods(app, defense.mods()), strategy, cut)


def _strategy(
    settings: StrategySettings, aggregator: Aggregator, seed: int, model: FunctionalModel
) -> Strategy:
    """The scenario's strategy. What a plugin may not know is passed only where it is asked for.

    Raises:
        UsageError: the plugin does not know it.
    """
    optimizer = settings.server_optimizer
    factory = plugins.load("strategies", settings.name)
    arguments = {
        "aggregator": aggregator,
        "optimizer": SGD(optimizer.learning_rate, optimizer.momentum),
        "cohort": settings.cohort,
        "seed": seed,
        "parameters": model.parameter_names,
        **({"over_selection": settings.over_selection} if settings.over_selection != 1.0 else {}),
        **({"quorum": settings.quorum} if settings.quorum != 1 else {}),
    }
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise UsageError(
            f"the strategy {settings.name!r} (from {plugins.provider('strategies', settings.name)}) cannot be"
            f" called with {', '.join(arguments)}: {error}"
        ) from error
    made: Strategy = factory(**arguments)
    return made


def check_disk(scenario: Scenario, model: FunctionalModel, cells: int) -> None:
    """Refuse, before training, observations that would outgrow audit.max_disk_mb.

    Raises:
        UsageError: they would.
    """
    values = sum(value.numel() for value in model.state().values())
    updates = cells * len(scenario.audit.rounds) * (scenario.strategy.cohort + 1)
    megabytes = 4.0 * values * updates / 1e6
    if megabytes > scenario.audit.max_disk_mb:
        raise UsageError(
            f"the observations of {cells} cells, {len(scenario.audit.rounds)} rounds and cohorts of"
            f" {scenario.strategy.cohort} would take {megabytes:,.3g} MB; audit.max_disk_mb is"
            f" {scenario.audit.max_disk_mb:,.6g}. Observe fewer rounds, or raise it"
        )
