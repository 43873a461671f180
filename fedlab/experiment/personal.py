"""Evaluation where no model is everybody's: each client tests its own, and says how good it is.

The server holds no personal parameters, and a strategy may make a model for each client; so the clients
are asked. A client answers for the test records, in its own mix of labels: the same measure as
`fedlab.experiment.evaluation.per_client` takes of a common model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedlab.errors import FedlabError
from fedlab.runtime import SimulationGrid, client_of, node_of
from fedlab.runtime.arrays import array_record
from fedlab.tasks import State


@runtime_checkable
class PerClient(Protocol):
    """A strategy whose model is not the clients': it makes one for each."""

    def models(self, arrays: ArrayRecord, nodes: Sequence[int]) -> Iterable[ArrayRecord]:
        """The model of each node, in order; `nodes` are all there are, ascending."""


def ask_clients(
    grid: Grid,
    strategy: Strategy,
    state: State,
    round: int,
    records: Sequence[int],
    timeout: float | None,
    clients: Iterable[int] | None = None,
) -> list[dict[str, Any]]:
    """Client, records, accuracy and loss on the test set in the client's mix of labels, client by client.

    On a simulated Grid this takes no virtual time; on another one a client that does not answer in time
    has None for both, as has one that failed.

    Args:
        round: after which they are asked.
        records: how many each client holds.
        timeout: seconds to wait on a Grid that is not simulated.
        clients: whom to ask; everybody unless given, or where the strategy makes a model for each client.
    """
    arrays, each = array_record(state), isinstance(strategy, PerClient)
    nodes = sorted(grid.get_node_ids() if clients is None or each else map(node_of, clients))
    models = strategy.models(arrays, nodes) if isinstance(strategy, PerClient) else itertools.repeat(arrays)
    told = ConfigRecord({"server-round": round, "on": "test"})
    messages = [
        Message(
            RecordDict({"arrays": model, "config": told}),
            dst_node_id=node,
            message_type=MessageType.EVALUATE,
        )
        for node, model in zip(nodes, models, strict=False)
    ]
    if isinstance(grid, SimulationGrid):
        replies: Iterable[Message] = grid.consult(messages)
    else:
        replies = grid.send_and_receive(messages, timeout=timeout)
    found = {reply.metadata.src_node_id: _measured(reply) for reply in replies if not reply.has_error()}
    return [
        {"client": client_of(node), "records": records[client_of(node)], **found.get(node, UNKNOWN)}
        for node in nodes
    ]


UNKNOWN: dict[str, float | None] = {"accuracy": None, "loss": None}


def _measured(reply: Message) -> dict[str, float | None]:
    metrics = next(iter(reply.content.metric_records.values()), MetricRecord())
    return {name: _finite(metrics.get(name)) for name in UNKNOWN}


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def mean_over_clients(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """The mean of one figure over honest clients, weighted by their records; None if none of them has it."""
    honest = [row for row in rows if "adversary" not in row]
    known = [(row["records"], row[name]) for row in honest if row.get(name) is not None]
    total = sum(records for records, _ in known)
    return sum(records * value for records, value in known) / total if total else None


def accuracy_of(rows: Sequence[dict[str, Any]]) -> float:
    """The accuracy of personal models: the mean over clients.

    Raises:
        FedlabError: no client could say.
    """
    found = mean_over_clients(rows, "accuracy")
    if found is None:
        raise FedlabError(
            "no client could test its model: all failed or did not answer, or none holds records of a class"
            " of the test set; events.jsonl says what clients failed with"
        )
    return found
