"""FedAST as a scenario names it; `fedlab.strategies.asynchronous.simultaneous` is the algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

from flwr.serverapp.strategy import Strategy
from pydantic import Field
from torch import Tensor

from fedlab.clients import ClientConfig
from fedlab.clients.rules import ServerSide
from fedlab.errors import UsageError
from fedlab.strategies.aggregators import Aggregator, minimum
from fedlab.strategies.asynchronous.allocation import buffer_of
from fedlab.strategies.asynchronous.recruiting import Recruiting
from fedlab.strategies.asynchronous.requests import Requests
from fedlab.strategies.asynchronous.simultaneous import FedAST
from fedlab.strategies.learner import Learner
from fedlab.strategies.sampling import Sampler, uniform
from fedlab.strategies.server_optimizers import ServerOptimizer
from fedlab.strategies.several import TaskServer, TaskServers
from fedlab.tasks import State


def fedast(
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
    tasks: Mapping[str, TaskServer] | None = None,
    concurrency: Annotated[int, Field(ge=1)],
    quantum: Annotated[int, Field(ge=1)] | None = None,
    allocation: Literal["static", "dynamic"] = "static",
    power: Annotated[float, Field(gt=0)] = 0.5,
) -> Strategy:
    """Several tasks at once, asynchronous and buffered: x_m ← x_m + γ Σ Δ_i / b_m from R_m requests.

    Askin et al., "FedAST: Federated Asynchronous Simultaneous Training", UAI 2024,
    https://arxiv.org/abs/2406.00302.

    `cohort` is the buffer b_m that each of the `[[tasks]]` begins with. A request goes to a client that is
    drawn from all, and waits there while the client is busy. Tasks that meet their target leave their
    requests to the others.

    Args:
        concurrency: M, requests under way over all tasks.
        quantum: requests that stand behind each update of a buffer, b_m = ceil(R_m / quantum): 32 in the
            paper; M / (tasks · cohort) unless given.
        allocation: `"static"` gives all tasks as many requests; `"dynamic"` more to those whose updates
            differ more, measured again and again.
        power: of that measure: 0.5 is its square root, 1 what the authors' code computes.

    Raises:
        UsageError: a cohort that is not the buffer.
    """
    alone = Learner(aggregator, optimizer, parameters, seed, server=server, config=config, root=root)
    servers = TaskServers(tasks or {"": TaskServer(alone)})
    most = -(-concurrency // len(servers.labels))
    step = quantum or -(-most // cohort)
    floor = max(minimum(servers[label].learner.aggregator) for label in servers.labels)
    requests = Requests(servers.labels, concurrency, step, floor)
    if (buffer := buffer_of(most, step)) != cohort:
        raise UsageError(
            f"strategy.cohort = {cohort}; expected {buffer}, the buffer that {most} requests make in quanta"
            f" of {step}"
        )
    return FedAST(
        servers,
        Recruiting(sampler, seed, records),
        requests,
        power if allocation == "dynamic" else None,
    )
