"""The aggregator of a run, with its pre-aggregation, tried before anything is written."""

from __future__ import annotations

import torch

from fedlab import plugins, seeds
from fedlab.errors import PluginError, UsageError
from fedlab.scenario.schema import Strategy as Settings
from fedlab.strategies import Aggregator, Updates, as_aggregator
from fedlab.strategies.aggregators import PreAggregated, called, checked, minimum, needs_root

WIDTH = 16
"""Parameters of the trial's model."""


def combiner(settings: Settings, own: object | None = None) -> Aggregator:
    """The scenario's aggregator, or the one that came from Python, behind the scenario's pre-aggregation.

    Raises:
        UsageError: a parameter out of range, or a cohort that is too small for it.
        PluginError: it is none, or answers random updates with something else than an update.
    """
    found = as_aggregator(plugins.build("aggregators", settings.aggregator) if own is None else own)
    if settings.pre_aggregation is not None:
        try:
            found = PreAggregated(plugins.build("preaggregators", settings.pre_aggregation), found)
        except PluginError as error:
            raise PluginError(
                f"{error} ({settings.pre_aggregation.name!r}, from"
                f" {plugins.provider('preaggregators', settings.pre_aggregation.name)})"
            ) from error
    least = minimum(found)
    if settings.cohort < least:
        name = settings.aggregator.name if own is None else called(found)
        before = f" after {settings.pre_aggregation.name!r}" if settings.pre_aggregation else ""
        raise UsageError(
            f"the aggregator {name!r}{before} combines at least {least} updates as it is set, but a round"
            f" asks {settings.cohort} clients; raise strategy.cohort, or expect fewer attackers (f)"
        )
    attempt(found, settings.cohort)
    return found


def attempt(aggregator: Aggregator, cohort: int) -> None:
    """Combine small random updates, of as many clients as a round has.

    Raises:
        PluginError: what came back is no update.
    """
    generator = seeds.torch_generator(0, "trial")
    updates = Updates(
        deltas=torch.randn(cohort, WIDTH, generator=generator, dtype=torch.float64),
        weights=torch.arange(1.0, cohort + 1.0, dtype=torch.float64),
        clients=tuple(range(cohort)),
        metrics=tuple({"num-examples": 1.0 + client} for client in range(cohort)),
        steps=torch.ones(cohort, dtype=torch.float64),
        root=torch.randn(WIDTH, generator=generator, dtype=torch.float64) if needs_root(aggregator) else None,
        generator=generator,
    )
    try:
        checked(aggregator, updates, {})
    except PluginError as error:
        raise PluginError(f"{error} (in a trial on random updates, before the first round)") from error
