"""From a cell to what it is made of: its clients and its strategy, with the defense in its places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedlab import plugins, seeds
from fedlab.adversaries import Group, poison
from fedlab.audit import Defense
from fedlab.audit.defense import NetworkFactory
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.app import CohortApp, with_mods
from fedlab.clients.config import Mode
from fedlab.clients.rules import ServerSide
from fedlab.clients.stacking import chunking
from fedlab.errors import PluginError, UsageError
from fedlab.experiment.cells import Cell, Parts
from fedlab.experiment.own import Own, make_strategy
from fedlab.experiment.room import at_once
from fedlab.experiment.root import RootUpdate
from fedlab.scenario import Scenario
from fedlab.strategies import Aggregator, Stragglers
from fedlab.strategies.aggregators import called, needs_root
from fedlab.tasks import FunctionalModel, Task
from fedlab.tasks.population import sizes


def federated(
    scenario: Scenario,
    owners: Sequence[NDArray[np.int64]],
    config: ClientConfig,
    seed: int,
    *,
    whole: bool = False,
    deployed: bool = False,
) -> Federation:
    """What a defense plans with; `whole` if the strategy came from Python: whom it asks is its own affair;
    `deployed` if the clients are real."""
    settings, slow = scenario.strategy, scenario.clients.stragglers
    drawn = settings.name == "fedavg" and settings.sampling.name == "poisson" and not whole
    everybody_else_counts = settings.over_selection == 1.0 and settings.quorum == 1
    all_count = everybody_else_counts and slow is None and settings.deadline is None
    bound = settings.options.get("max_participations")
    return Federation(
        records=sizes(owners),
        rounds=settings.rounds,
        config=config,
        cohort=settings.cohort,
        rate=settings.cohort / len(owners) if drawn and all_count else 1.0,
        participations=bound if isinstance(bound, int) else None,
        seed=seed,
        dropout=max(kind.dropout for kind in scenario.devices.kinds),
        secure=deployed if scenario.privacy.secure_rng is None else scenario.privacy.secure_rng,
        quorum=settings.quorum,
        enough=settings.cohort if settings.over_selection > 1.0 else None,
    )


def configured(scenario: Scenario, mode: Mode) -> ClientConfig:
    """What its clients do before any defense."""
    clients = scenario.clients
    return ClientConfig(
        mode=mode,
        batch_size=clients.batch_size,
        local_steps=clients.local_steps,
        local_epochs=clients.local_epochs,
        learning_rate=clients.learning_rate,
        momentum=clients.momentum,
        weight_decay=clients.weight_decay,
    )


def _combining(strategy: Strategy) -> object:
    """What a strategy combines updates with, as far as one can tell."""
    return getattr(getattr(strategy, "learner", strategy), "aggregator", None)


def assemble(
    cell: Cell,
    scenario: Scenario,
    task: Task,
    owners: Sequence[NDArray[np.int64]],
    defense: Defense,
    aggregator: Aggregator,
    own: Own = Own(),  # noqa: B008 (frozen)
    adversaries: Sequence[Group] = (),
    tampered: Callable[[NetworkFactory], NetworkFactory] = lambda factory: factory,
    *,
    deployed: bool = False,
) -> Parts:
    """The cell's clients and its strategy, with the defense in its places and the adversaries' records.

    `tampered` is what a malicious server makes of the network that was agreed on; `deployed` says that the
    clients are real.
    """
    settings = scenario.strategy
    config = defense.config(configured(scenario, cell.mode))
    rule = own.local_rule or plugins.build("local_rules", settings.local_rule)
    if not isinstance(rule, LocalRule):
        raise PluginError(
            f"the local rule {settings.local_rule.name!r} (from"
            f" {plugins.provider('local_rules', settings.local_rule.name)}) is a {type(rule).__name__};"
            " expected a subclass of fedlab.clients.LocalRule"
        )
    task = replace(task, network=tampered(rule.network(defense.network(task.network))))
    whole = own.strategy is not None
    federation = federated(scenario, owners, config, cell.seed, whole=whole, deployed=deployed)
    plain, rule = rule, defense.local_rule(rule, federation)
    if rule.pixels and not task.train.pixels:
        who = f"local rule {settings.local_rule.name}" if plain.pixels else f"defense {cell.defense}"
        raise UsageError(
            f"the records of {task.name} are no pixels in [0, 1], and the {who} moves pixels; take images, or"
            " another of them"
        )
    defended = defense.aggregator(aggregator, federation)
    model = task.model(seeds.derive(cell.seed, "init"))
    rule.meet(model)
    kept = frozenset(rule.personal(model.parameters_of(model.state()), torch.Generator()))
    if plain.personal(model.parameters_of(model.state()), torch.Generator()):  # under every defense
        _check_attacks(scenario, kept, settings.local_rule.name)
    arguments = _arguments(scenario, cell, model, rule, kept, defended, config, federation)
    if needs_root(aggregator):
        _check_root(aggregator, settings.local_rule.name, rule.server, kept)
        arguments["root"] = RootUpdate(task, config, cell.seed, aggregator)
    if own.server_optimizer is not None:
        arguments["optimizer"] = own.server_optimizer
    try:
        inner = make_strategy(settings, arguments, own, rule.server)
    except UsageError as error:
        if defended is aggregator:
            raise
        raise UsageError(
            f"with the defense {cell.defense}, which changes how updates are combined: {error}"
        ) from error
    if defended is not aggregator and _combining(inner) is not defended:
        raise UsageError(
            f"the defense {cell.defense} changes how updates are combined, but the strategy"
            f" {type(inner).__name__} does that by itself; choose one of fedlab's own (fedavg, fedbuff), or"
            " another defense"
        )
    strategy = defense.strategy(inner)
    cut = chunking(model, config, max(federation.sizes), at_once(settings), scenario.runtime.chunk)
    task, owners = poison(task, owners, adversaries, cell.seed)
    device = "cuda" if scenario.runtime.num_gpus > 0 else "cpu"
    app = CohortApp(task, owners, rule, config, cell.seed, stacked=cut.stacked, chunk=cut.size, device=device)
    moded = with_mods(app, defense.mods())
    return Parts(task, owners, model, config, moded, strategy, cut, federation, kept, rule)


def _check_attacks(scenario: Scenario, kept: frozenset[str], rule: str) -> None:
    """Refuse attacks that take what the server sent for the whole model.

    Raises:
        UsageError: there are some.
    """
    whole = [
        spec.label
        for spec in scenario.attacks
        if not getattr(plugins.load("attacks", spec.name), "personal", False)
    ]
    if whole:
        raise UsageError(
            f"the local rule {rule} leaves a part of the model with the clients"
            f" ({', '.join(sorted(kept)[:3])}, ...), and the attacks {', '.join(whole)} need the whole of it;"
            " leave them out of [[attacks]] (hypernetwork-pullback does with what is sent), or choose another"
            " rule"
        )


def _check_root(aggregator: Aggregator, rule: str, server: ServerSide, kept: frozenset[str]) -> None:
    """Refuse what the server's own records have no counterpart of: they make an update of a whole model.

    Raises:
        UsageError: clients keep parameters to themselves, or send more than an update.
    """
    more = f"sends {', '.join(server.uplinks)} beside the update" if server.uplinks else ""
    if kept:
        more = f"leaves a part of the model ({', '.join(sorted(kept)[:3])}, ...) with the clients"
    if more:
        raise UsageError(
            f"the aggregator {called(aggregator)} compares updates with that of the server's own records, but"
            f" the local rule {rule} {more}, of which the server has none; choose another of the two"
        )


def _arguments(
    scenario: Scenario,
    cell: Cell,
    model: FunctionalModel,
    rule: LocalRule,
    kept: frozenset[str],
    aggregator: Aggregator,
    config: ClientConfig,
    federation: Federation,
) -> dict[str, Any]:
    """What a strategy is made of; what the scenario leaves at its default is not among it."""
    settings, slow = scenario.strategy, scenario.clients.stragglers
    arguments: dict[str, Any] = {
        "aggregator": aggregator,
        "optimizer": plugins.build("server_optimizers", settings.server_optimizer),
        "cohort": settings.cohort,
        "seed": cell.seed,
        "parameters": [name for name in model.parameter_names if name not in kept],
    }
    if settings.over_selection != 1.0:
        arguments["over_selection"] = settings.over_selection
    if settings.quorum != 1:
        arguments["quorum"] = settings.quorum
    if settings.sampling.name != "uniform" or settings.sampling.params:
        arguments["sampler"] = plugins.build("samplers", settings.sampling)
        arguments["records"] = federation.records
    if kept:
        arguments["personal"] = kept
    if type(rule.server) is not ServerSide:
        arguments |= {"server": rule.server, "config": config}
    if slow is not None:
        arguments["stragglers"] = Stragglers(slow.fraction, config.local_epochs, slow.partial, cell.seed)
    return arguments
