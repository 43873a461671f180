"""FedAsync: every update makes a new model.

Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", 2019, https://arxiv.org/abs/1903.03934, algorithm
1: x_t = (1 − α_t) x_{t−1} + α_t y, α_t = α s(t − τ), for the model y of a client that started from x_τ. In
the form of this package: a buffer of one, an update measured from the model that the server has now, and α
s as its weight.

Deviation: the proximal term of the paper's clients is a local rule of its own, `fedprox` with mu = ρ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from flwr.serverapp.strategy import Strategy
from pydantic import Field
from torch import Tensor

from fedlab.clients import ClientConfig
from fedlab.clients.rules import ServerSide
from fedlab.errors import UsageError
from fedlab.strategies.aggregators import Aggregator
from fedlab.strategies.asynchronous.buffered import Buffered
from fedlab.strategies.asynchronous.fedbuff import staleness_of
from fedlab.strategies.asynchronous.recruiting import Recruiting
from fedlab.strategies.asynchronous.staleness import Staleness, weighed
from fedlab.strategies.learner import Learner
from fedlab.strategies.sampling import Sampler, uniform
from fedlab.strategies.server_optimizers import ServerOptimizer
from fedlab.tasks import State


@dataclass(frozen=True)
class Mixing:
    """α s(t − τ)."""

    alpha: float
    staleness: Staleness

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha <= 1.0:
            raise UsageError(f"mixing = {self.alpha}; expected a number above 0, and at most 1")

    def weight(self, staleness: int) -> float:
        return self.alpha * weighed(self.staleness, staleness)


class FedAsync(Buffered):
    """A buffer of one."""

    kind: ClassVar[str] = "fedasync"


def fedasync(
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
    mixing: Annotated[float, Field(gt=0, le=1)] = 0.6,
    staleness: str | Mapping[str, Any] = "polynomial",
    max_staleness: Annotated[int, Field(ge=0)] | None = None,
    max_participations: Annotated[int, Field(ge=1)] | None = None,
) -> Strategy:
    """Asynchronous, one by one: x ← (1 − α s) x + α s y as soon as a client's model y is in.

    Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", 2019, https://arxiv.org/abs/1903.03934.

    `cohort` is 1. The paper's clients have a proximal term: that is the local rule `fedprox`.

    Args:
        concurrency: clients that train at any time.
        mixing: α, the share of a fresh model.
        staleness: s, by which the share falls: `fedlab list staleness`.
        max_staleness: a model that is staler is thrown away.
        max_participations: how often a client is asked at most.

    Raises:
        UsageError: a cohort other than 1.
    """
    if cohort != 1:
        raise UsageError(
            f"fedasync makes a new model of every update, but strategy.cohort is {cohort}; set it to 1, or"
            " take fedbuff"
        )
    learner = Learner(aggregator, optimizer, parameters, seed, server=server, config=config, root=root)
    return FedAsync(
        learner,
        Recruiting(sampler, seed, records),
        buffer=1,
        concurrency=concurrency,
        staleness=Mixing(mixing, staleness_of(staleness)),
        max_staleness=max_staleness,
        max_participations=max_participations,
        measured_from="now",
    )
