"""A federated algorithm as a composition: aggregator × server optimizer × schedule.

(The fourth part, the local rule, runs in the clients.) The composition is a Flower `Strategy`, so it
runs on any Grid. FedAvg (McMahan et al., AISTATS 2017, https://arxiv.org/abs/1602.05629) is the
weighted mean, plain averaging and the synchronous schedule.

Deviations from flwr's FedAvg: aggregation works on deltas, in float64, in the order of client ids
(flwr sums float32 weights in the order of arrival); sampling comes from the seed tree; a round
without a valid reply leaves the model as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedlab.errors import FedlabError
from fedlab.runtime.arrays import array_record, tensors
from fedlab.snapshot import Snapshot
from fedlab.strategies.aggregators import Aggregator, AggregatorState, FunctionAggregator, Updates, checked
from fedlab.strategies.deltas import BLOCK, deltas, flatten, unflatten
from fedlab.strategies.schedules import Synchronous
from fedlab.strategies.server_optimizers import OptimizerState, ServerOptimizer
from fedlab.tasks import State


class Composition(Strategy):
    """One synchronous federated algorithm.

    Args:
        parameters: names of the learned tensors; all other arrays (batch-norm statistics) are
            averaged with the clients' weights and take no optimizer step.
        quorum: usable replies that a round needs; with fewer the model stays as it was.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        optimizer: ServerOptimizer,
        schedule: Synchronous,
        parameters: Sequence[str],
        quorum: int = 1,
    ) -> None:
        self.aggregator, self.optimizer, self.schedule = aggregator, optimizer, schedule
        self.parameters, self.quorum = tuple(parameters), quorum
        self.aggregator_state: AggregatorState = {}
        self.optimizer_state: OptimizerState = {}
        self._sent: State = {}

    def summary(self) -> None:
        """Flower prints this at the start of a run; the scenario says it all already."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same model to each client of this round's cohort."""
        self._sent = tensors(arrays)
        nodes = grid.get_node_ids()
        ids = nodes if isinstance(nodes, range) else sorted(nodes)
        content = RecordDict(
            {"arrays": arrays, "config": ConfigRecord({**config, "server-round": server_round})}
        )
        return [
            Message(content, dst_node_id=node, message_type=MessageType.TRAIN)
            for node in self.schedule.sample(ids, server_round)
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next model, or None (keep the old one) when nobody sent a usable update."""
        answers = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        valid = [reply for reply in answers if not reply.has_error()]
        if len(valid) < max(1, self.quorum):
            return None, None
        records = [_only(ArrayRecord, reply) for reply in valid]
        metrics = [_metrics(reply) for reply in valid]
        weights = torch.tensor([m["num-examples"] for m in metrics], dtype=torch.float64)
        clients = tuple(reply.metadata.src_node_id for reply in valid)
        delta = self._aggregate(
            records, Updates(torch.empty(0), weights, clients, tuple(metrics)), server_round
        )
        step, self.optimizer_state = self.optimizer.step(delta, self.optimizer_state)
        before = flatten(self._sent, self.parameters)
        after = unflatten(before + step, self._sent, self.parameters)
        if not all(finite(value) for value in after.values()):
            raise FedlabError(
                f"the model left the range of its number type in round {server_round}: training diverged;"
                " lower clients.learning_rate or strategy.server_optimizer.learning_rate"
            )
        share = weights / weights.sum()
        for name in self._sent.keys() - set(self.parameters):
            like = self._sent[name]
            (moved,) = deltas(records, self._sent, [name])
            average = like + (share @ moved).reshape(like.shape)
            after[name] = (average if like.dtype.is_floating_point else average.round()).to(like.dtype)
        return (
            array_record({name: after[name] for name in self._sent}),
            MetricRecord({**_averages(metrics, share), "participants": len(valid)}),
        )

    def _aggregate(self, records: Sequence[ArrayRecord], about: Updates, server_round: int) -> Tensor:
        """One delta (d,) of all; `about` says whose and with which weights.

        Raises:
            FedlabError: an update is not finite.
            PluginError: the aggregator failed.
        """
        blocks = isinstance(self.aggregator, FunctionAggregator) and self.aggregator.coordinatewise
        parts = []
        for block in deltas(records, self._sent, self.parameters, BLOCK if blocks else None):
            if not finite(block):
                pairs = zip(about.clients, block, strict=True)
                broken = [node for node, delta in pairs if not finite(delta)]
                raise FedlabError(
                    f"nodes {', '.join(map(str, broken))} sent updates with NaN or infinite numbers in round"
                    f" {server_round}: training diverged; lower clients.learning_rate or clip"
                )
            updates = replace(about, deltas=block)
            part, self.aggregator_state = checked(self.aggregator, updates, self.aggregator_state)
            parts.append(part.clone())  # it may be a view of the block
        return torch.cat(parts)

    def snapshot(self) -> Snapshot:
        """What the aggregator and the optimizer remember.

        Raises:
            PluginError: one of them remembers what a checkpoint cannot hold.
        """
        parts = {"aggregator": self.aggregator_state, "optimizer": self.optimizer_state}
        return Snapshot.of({name: Snapshot.of_state(f"the {name}", state) for name, state in parts.items()})

    def restore(self, snapshot: Snapshot) -> None:
        """Remember it again."""
        self.aggregator_state = snapshot.get("aggregator").state()
        self.optimizer_state = snapshot.get("optimizer").state()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluation is central."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Evaluation is central."""
        return None


def fedavg(
    *,
    aggregator: Aggregator,
    optimizer: ServerOptimizer,
    cohort: int,
    seed: int,
    parameters: Sequence[str],
    over_selection: float = 1.0,
    quorum: int = 1,
) -> Strategy:
    """FedAvg with any aggregator and server optimizer, on the synchronous schedule."""
    schedule = Synchronous(cohort, seed, over_selection)
    return Composition(aggregator, optimizer, schedule, parameters, quorum)


Record = TypeVar("Record", ArrayRecord, MetricRecord)


def _only(kind: type[Record], reply: Message) -> Record:
    """The reply's one record of a kind, whatever the client calls it.

    Raises:
        FedlabError: there is none, or there are several.
    """
    found = [record for record in reply.content.values() if isinstance(record, kind)]
    if len(found) != 1:
        raise FedlabError(
            f"node {reply.metadata.src_node_id} sent {len(found)} {kind.__name__}s; expected one."
            " A guard in front of the strategy turns such replies away (guard.enabled = true)"
        )
    return found[0]


def _metrics(reply: Message) -> dict[str, float]:
    record = _only(MetricRecord, reply)
    return {name: float(value) for name, value in record.items() if isinstance(value, int | float)}


def _averages(metrics: Sequence[dict[str, float]], share: Tensor) -> dict[str, float]:
    """The weighted mean of each figure that every client sent and that is finite."""
    names = set.intersection(*(set(one) for one in metrics)) - {"num-examples"}
    columns = {n: torch.tensor([one[n] for one in metrics], dtype=torch.float64) for n in sorted(names)}
    return {name: float(share @ column) for name, column in columns.items() if finite(column)}


def finite(values: Tensor) -> bool:
    """NaN and infinity survive a sum, which is several times quicker than looking at each number."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())
