"""From a scenario to the things that it names: the task, who owns which record, defenses, attacks.

All of it is a function of the scenario (and of what came from Python), so that a run and its
resumption start from the same things. Nothing is written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import nn

from fedlab import plugins, seeds
from fedlab.adversaries import Group
from fedlab.audit import Attack, Defense
from fedlab.audit.defense import NetworkFactory
from fedlab.audit.membership import MembershipAttack
from fedlab.errors import PluginError, UsageError
from fedlab.experiment.assembly import assemble
from fedlab.experiment.cells import Cell, Parts
from fedlab.experiment.combining import combiner
from fedlab.experiment.dividing import divide
from fedlab.experiment.own import Own, own
from fedlab.experiment.pairing import paired
from fedlab.experiment.provenance import describe_data
from fedlab.experiment.recruiting import recruit
from fedlab.experiment.room import check_disk
from fedlab.experiment.several import alone, described, together
from fedlab.scenario import Scenario, load
from fedlab.strategies import Aggregator
from fedlab.tasks import Dataset, FunctionalModel, Records, Task

Tampering = Callable[[NetworkFactory], NetworkFactory]


@dataclass(frozen=True)
class Setup:
    """Everything that a scenario names, built.

    Attributes:
        owners: record ids of each client, by seed.
        adversaries: who attacks the training, by seed.
        adaptive: attacks that are added because they know a defense, by label; `plugins` has their names.
        several: of several tasks the set-up of each alone, by label; what stands here is that of the first.
        aggregators: by label of the strategy.
        model: the undefended network.
        objects: names of what came from Python and stands in no file.
        own: the parts of the algorithm among them, beside the aggregator.
        again: builds the same for another scenario, with what came from Python.
        grid: makes the Grid on which a cell's clients are; a `SimulationGrid` if None.
    """

    scenario: Scenario
    task: Task
    owners: Mapping[int, Sequence[NDArray[np.int64]]]
    defenses: Mapping[str, Defense]
    attacks: Mapping[str, Attack | MembershipAttack]
    aggregators: Mapping[str, Aggregator]
    model: FunctionalModel = field(repr=False)
    objects: Mapping[str, str]
    again: Callable[[Scenario], Setup] = field(repr=False)
    grid: Callable[[Cell], Grid] | None = None
    own: Own = field(default_factory=Own)
    adversaries: Mapping[int, Sequence[Group]] = field(default_factory=dict)
    several: Mapping[str, Setup] = field(default_factory=dict)
    adaptive: Mapping[str, Attack | MembershipAttack] = field(default_factory=dict)

    @property
    def plugins(self) -> dict[str, str]:
        """Which plugin each attack is, by label."""
        return {spec.label: spec.name for spec in self.scenario.attacks} | paired(
            self.scenario, self.defenses
        )

    @property
    def cells(self) -> list[Cell]:
        """Everything to train, in the order of the scenario."""
        return cells_of(self.scenario)

    def under(self, cell: Cell) -> Scenario:
        """The scenario with the cell's strategy for its only one."""
        return self.scenario.under(cell.strategy)

    def parts(self, cell: Cell, tampered: Tampering | None = None) -> Parts:
        """What the cell is made of; `tampered` is what a malicious server makes of its network."""
        scenario, aggregator = self.under(cell), self.aggregators[cell.strategy]
        if self.several:
            each = {label: one._alone(cell, scenario, label) for label, one in self.several.items()}
            return together(cell, scenario, each, aggregator, self.own)
        return self._assembled(cell, scenario, cell.seed, aggregator, self.own, tampered)

    def _alone(self, cell: Cell, scenario: Scenario, label: str) -> Parts:
        """What one of several tasks is made of; it draws from a branch of the seed tree that is its own."""
        seed = seeds.derive(cell.seed, "task", label)
        own = replace(self.own, strategy=None)
        plain = alone(scenario).alone(label)
        return self._assembled(
            replace(cell, seed=seed), plain, cell.seed, self.aggregators[cell.strategy], own
        )

    def _assembled(
        self,
        cell: Cell,
        scenario: Scenario,
        seed: int,
        aggregator: Aggregator,
        own: Own,
        tampered: Tampering | None = None,
    ) -> Parts:
        return assemble(
            cell,
            scenario,
            self.task,
            self.owners[seed],
            self.defenses[cell.defense],
            aggregator,
            own,
            self.adversaries[seed],
            tampered or (lambda factory: factory),
            deployed=self.grid is not None,
        )

    @property
    def data(self) -> dict[str, Any]:
        """The records, for the manifest."""
        if self.several:
            return described([one.data for one in self.several.values()])
        return describe_data(self.task)


def set_up(
    settings: Scenario,
    task: Task | None = None,
    aggregator: object | None = None,
    grid: Callable[[Cell], Grid] | None = None,
    *,
    local_rule: object | None = None,
    server_optimizer: object | None = None,
    strategy: object | None = None,
) -> Setup:
    """Build it all; what cannot be built fails here, before anything is written.

    Raises:
        UsageError, DataError: see `fedlab.errors`.
    """
    if task is not None and not isinstance(task, Task):
        raise UsageError(f"task is a {type(task).__name__}; expected a fedlab.tasks.Task")
    if settings.tasks:
        python = {"local_rule": local_rule, "server_optimizer": server_optimizer, "strategy": strategy}
        each = {
            one.label: set_up(settings.alone(one.label), None, aggregator, grid, **python)
            for one in settings.tasks
        }
        return replace(next(iter(each.values())), scenario=settings, several=each)
    if settings.map is not None and grid is not None:
        raise UsageError("[map] turns the settings of simulated clients; leave it out on a deployed Grid")
    learned = task or build_task(settings)
    if (settings.attacks or settings.audit.include_samples) and not learned.train.pixels:
        raise UsageError(
            f"the records of {learned.name} are no pixels in [0, 1], and attacks are scored on pixels; leave"
            " out [[attacks]] and audit.include_samples, or take a data set of images"
        )
    owners = divide(settings, learned)
    defenses = {spec.label: plugins.build("defenses", spec) for spec in settings.defenses}
    attacks = {spec.label: plugins.build("attacks", spec) for spec in settings.attacks}
    combine = {label: combiner(settings.under(label).strategy, aggregator) for label in settings.labels}
    model = learned.model(seeds.derive(settings.seeds[0], "init"))
    for defense in defenses.values():
        replace(learned, network=defense.network(learned.network)).model(0)
    check_disk(settings, model, cells_of(settings))
    parts: dict[str, object | None] = {
        "aggregator": aggregator,
        "local_rule": local_rule,
        "server_optimizer": server_optimizer,
        "strategy": strategy,
    }
    objects = {
        **({"task": network_name(task)} if task is not None else {}),
        **{key: _name(part) for key, part in {**parts, "grid": grid}.items() if part is not None},
    }
    mine = own(**parts)
    return Setup(
        settings,
        learned,
        owners,
        defenses,
        attacks,
        combine,
        model,
        objects,
        functools.partial(
            set_up,
            task=task,
            aggregator=aggregator,
            local_rule=local_rule,
            server_optimizer=server_optimizer,
            strategy=strategy,
        ),
        grid,
        mine,
        recruit(settings, learned),
        adaptive={
            label: plugins.build("attacks", {"name": name})
            for label, name in paired(settings, defenses).items()
        },
    )


def cells_of(settings: Scenario) -> list[Cell]:
    """Strategy × defense × client mode × seed."""
    return [
        Cell(spec.label, mode, seed, label)
        for label in settings.labels
        for spec in settings.defenses
        for mode in settings.clients.modes
        for seed in settings.seeds
    ]


def build_task(scenario: Scenario) -> Task:
    """The scenario's data set and network."""
    spec, source = scenario.task.model, scenario.task.dataset
    halves = plugins.build("datasets", source)
    pair = isinstance(halves, tuple) and len(halves) == 2
    if not (pair and isinstance(halves[0], Records) and isinstance(halves[1], Dataset)):
        raise PluginError(
            f"the data set {source.name!r} (from {plugins.provider('datasets', source.name)}) returned"
            f" {type(halves).__name__}; expected a pair of fedlab.tasks.Dataset, (train, test)"
        )
    network = functools.partial(plugins.bind("models", spec), halves[0].shape, halves[0].classes)
    made = network()  # a knob out of range fails here, by name
    if not isinstance(made, nn.Module):
        raise PluginError(
            f"the model {spec.name!r} (from {plugins.provider('models', spec.name)}) returned a"
            f" {type(made).__name__}; expected a torch.nn.Module"
        )
    return Task(train=halves[0], test=halves[1], network=network)


def with_own_task(scenario: str | Path | Mapping[str, Any] | Scenario) -> Mapping[str, Any] | Scenario:
    """The scenario with its [task] replaced by what says that the task came from Python."""
    own = {"dataset": "own", "model": "own"}
    if isinstance(scenario, Mapping):
        return {**scenario, "task": own}
    settings = load(scenario)
    return settings.model_copy(update={"task": type(settings.task).model_validate(own)})


def network_name(task: Task) -> str:
    """What to call a network that came as an object."""
    return str(getattr(task.network, "__name__", type(task.network).__name__))


def _name(given: object) -> str:
    return str(getattr(given, "__name__", type(given).__name__))
