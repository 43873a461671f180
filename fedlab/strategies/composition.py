"""A federated algorithm as a composition: local rule × aggregator × server optimizer × synchronous schedule.

The schedule says whom a round asks; what becomes of the answers is the `Learner`'s affair. The composition is
a Flower `Strategy`, so it runs on any Grid. FedAvg (McMahan et al., AISTATS 2017,
https://arxiv.org/abs/1602.05629) is the weighted mean, plain averaging and the synchronous schedule.

Deviation from flwr's FedAvg: sampling comes from the seed tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedlab.clients import ClientConfig
from fedlab.clients.rules import ServerSide
from fedlab.errors import DataError
from fedlab.runtime.arrays import tensors
from fedlab.snapshot import Snapshot
from fedlab.strategies.aggregators import Aggregator, minimum
from fedlab.strategies.learner import Arrival, Learner
from fedlab.strategies.messages import Instructions, OutOfStep
from fedlab.strategies.sampling import Sampler, uniform
from fedlab.strategies.schedules import Stragglers, Synchronous
from fedlab.strategies.server_optimizers import ServerOptimizer
from fedlab.tasks import State


class Composition(Strategy):
    """One synchronous federated algorithm.

    Args:
        learner: what becomes of updates.
        schedule: whom a round asks.
        quorum: usable replies that a round needs; with fewer the model stays as it was.
        stragglers: clients of a round that do less than the others, or drop out.

    Attributes:
        why_skipped: why the last round left the model as it was; empty if it did not.
    """

    def __init__(
        self,
        learner: Learner,
        schedule: Synchronous,
        quorum: int = 1,
        *,
        stragglers: Stragglers | None = None,
    ) -> None:
        self.learner, self.schedule, self.quorum, self.stragglers = learner, schedule, quorum, stragglers
        self.why_skipped = ""
        self._sent: State = {}
        self._population = 0
        self._asked: dict[int, int] = {}
        self._out_of_step = OutOfStep(learner.server.in_step)

    @property
    def uplinks(self) -> tuple[str, ...]:
        """The arrays that clients send beside their update, for the guard to expect."""
        return self.learner.uplinks

    def summary(self) -> None:
        """Flower prints this at the start of a run; the scenario says it all already."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The same model to each client of this round's cohort, and what the rule's server tells them."""
        self._sent = tensors(arrays)
        nodes = grid.get_node_ids()
        ids = nodes if isinstance(nodes, range) else sorted(nodes)
        self._population = len(ids)
        instructions = Instructions(self.learner.records(arrays, self._sent), config, server_round)
        cohort = self.schedule.sample(ids, server_round, getattr(grid, "available", None))
        work = dict.fromkeys(cohort, 0) if self.stragglers is None else self.stragglers(cohort, server_round)
        self._asked = work
        messages = [
            instructions.message(node, epochs=work[node], lost_since=self._out_of_step.since(node))
            for node in self.schedule.order(list(work), server_round)
        ]
        for node in work:
            self._out_of_step.asked(node, server_round)  # until its update has counted
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next model, or None (keep the old one) when too few sent a usable update."""
        valid = [reply for reply in replies if not reply.has_error()]
        needed = max(1, self.quorum, minimum(self.learner.aggregator))
        self.why_skipped = ""
        if len(valid) < needed:
            if not self._asked:
                self.why_skipped = "nobody was asked: the sampler drew no client, or all were stragglers"
            elif len(valid) >= max(1, self.quorum):  # else the Grid knows better what became of the others
                self.why_skipped = f"{len(valid)} usable updates; the aggregator needs {needed}"
            return None, None
        arrivals = [
            Arrival(reply, self._sent, epochs=self._asked.get(reply.metadata.src_node_id, 0))
            for reply in valid
        ]
        made = self.learner.combine(arrivals, self._sent, server_round, self._population)
        if made is None:
            self.why_skipped = self.learner.why_skipped
            return None, None
        self._out_of_step.counted(arrival.node for arrival in arrivals)
        return made

    def snapshot(self) -> Snapshot:
        """What the learner remembers, and who is out of step.

        Raises:
            PluginError: a part remembers what a checkpoint cannot hold.
        """
        whole = Snapshot.of({"learner": self.learner.snapshot()})
        whole.values["lost"] = self._out_of_step.values()
        return whole

    def restore(self, snapshot: Snapshot) -> None:
        """Remember it again.

        Raises:
            DataError: the state of another algorithm.
        """
        if "learner" not in snapshot.values:
            raise DataError("the checkpoint comes from another algorithm than a composition; start a new run")
        self.learner.restore(snapshot.get("learner"))
        self._out_of_step.restore(snapshot.values["lost"])

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
    sampler: Sampler = uniform,
    records: Sequence[int] | None = None,
    server: ServerSide | None = None,
    config: ClientConfig | None = None,
    root: Callable[[State, int], Tensor] | None = None,
    stragglers: Stragglers | None = None,
) -> Strategy:
    """The synchronous schedule, with any local rule, aggregator and server optimizer; FedAvg by default."""
    return Composition(
        Learner(aggregator, optimizer, parameters, seed, server=server, config=config, root=root),
        Synchronous(cohort, seed, over_selection, sampler, records),
        quorum,
        stragglers=stragglers,
    )
