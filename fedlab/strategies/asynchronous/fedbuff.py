"""FedBuff as a scenario names it; `fedlab.strategies.asynchronous.buffered` is the algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from flwr.serverapp.strategy import Strategy
from pydantic import Field
from torch import Tensor

from fedlab import plugins
from fedlab.clients import ClientConfig
from fedlab.clients.rules import ServerSide
from fedlab.errors import PluginError, UsageError
from fedlab.strategies.aggregators import Aggregator
from fedlab.strategies.asynchronous.buffered import Buffered, Division
from fedlab.strategies.asynchronous.recruiting import Recruiting
from fedlab.strategies.asynchronous.staleness import Staleness
from fedlab.strategies.learner import Learner
from fedlab.strategies.sampling import Sampler, uniform
from fedlab.strategies.server_optimizers import ServerOptimizer
from fedlab.tasks import State


def fedbuff(
    *,
    aggregator: Aggregator,
    optimizer: ServerOptimizer,
    cohort: int,
    seed: int,
    parameters: Sequence[str],
    sampler: Sampler = uniform,
    records: Sequence[int] | None = None,
    server: ServerSide | None = None,
    config: ClientConfig | None = None,
    root: Callable[[State, int], Tensor] | None = None,
    concurrency: Annotated[int, Field(ge=1)],
    staleness: str | Mapping[str, Any] = "polynomial",
    max_staleness: Annotated[int, Field(ge=0)] | None = None,
    division: Division = "count",
    max_participations: Annotated[int, Field(ge=1)] | None = None,
) -> Strategy:
    """Asynchronous, buffered: x ← x + γ Σ w(s_i) Δ_i / K as soon as K = `cohort` updates are in.

    Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022,
    https://arxiv.org/abs/2106.06639.

    Whoever comes back is replaced at once, by a client that starts from the newest model; nobody waits for
    the slow. The paper's mean is the aggregator `mean`; `weighted-mean` counts records, as Papaya does.

    Args:
        concurrency: M, clients that train at any time.
        staleness: what an update counts that started from an older model: `fedlab list staleness`.
        max_staleness: an update that is staler is thrown away.
        division: `"count"` divides by K, so that stale updates make smaller steps; `"weights"` by the sum of
            their weights.
        max_participations: how often a client is asked at most.
    """
    learner = Learner(aggregator, optimizer, parameters, seed, server=server, config=config, root=root)
    return Buffered(
        learner,
        Recruiting(sampler, seed, records),
        buffer=cohort,
        concurrency=concurrency,
        staleness=staleness_of(staleness),
        max_staleness=max_staleness,
        division=division,
        max_participations=max_participations,
    )


def staleness_of(given: str | Mapping[str, Any]) -> Staleness:
    """The weight that a scenario names, alone or in a table with its parameters.

    Raises:
        UsageError: there is none of that name, or a parameter is out of range.
        PluginError: it is no weight.
    """
    name = given if isinstance(given, str) else given.get("name")
    if not isinstance(name, str):
        raise UsageError(
            f'staleness = {given}; expected a name, or a table such as {{ name = "polynomial" }}'
        )
    made = plugins.build("staleness", given)
    if not isinstance(made, Staleness):
        raise PluginError(
            f"the staleness {name!r} (from {plugins.provider('staleness', name)}) is a"
            f" {type(made).__name__}; expected an object with weight(staleness) -> float"
        )
    return made
