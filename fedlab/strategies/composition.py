"""A federated algorithm as a composition: local rule × aggregator × server optimizer × schedule.

Of the local rule only the server's half is here (`fedlab.clients.rules.ServerSide`); the other runs in
the clients. The composition is a Flower `Strategy`, so it runs on any Grid. FedAvg (McMahan et al.,
AISTATS 2017, https://arxiv.org/abs/1602.05629) is the weighted mean, plain averaging and the synchronous
schedule.

Deviations from flwr's FedAvg: aggregation works on deltas, in float64, in the order of client ids
(flwr sums float32 weights in the order of arrival); sampling comes from the seed tree; a round
without a valid reply leaves the model as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedlab import seeds
from fedlab.clients import ClientConfig
from fedlab.clients.app import EPOCHS, LOST
from fedlab.clients.plan import steps_per_round
from fedlab.clients.rules import Facts, ServerSide, ServerState, slotted
from fedlab.errors import DataError, FedlabError, PluginError
from fedlab.runtime.arrays import SERVER, UPLINK, array_record, tensors
from fedlab.snapshot import Snapshot
from fedlab.strategies.aggregators import Aggregator, AggregatorState, Updates, called, checked, minimum
from fedlab.strategies.deltas import BLOCK, averaged, deltas, flatten, unflatten
from fedlab.strategies.replies import averages, figures, finite, only
from fedlab.strategies.sampling import Sampler, uniform
from fedlab.strategies.schedules import Stragglers, Synchronous
from fedlab.strategies.server_optimizers import OptimizerState, ServerOptimizer, stepped
from fedlab.tasks import State


class Composition(Strategy):
    """One synchronous federated algorithm.

    Args:
        parameters: names of the learned tensors that travel; all other arrays (batch-norm statistics) are
            averaged with the clients' weights and take no optimizer step.
        quorum: usable replies that a round needs; with fewer the model stays as it was.
        server: the server's half of the clients' local rule.
        config: how the clients train, for rules whose server must know it; no client's steps then count
            for more than it was told to take.
        root: the update (d,) that the server's own records make of a model in a round, for aggregators
            that compare clients with it.
        stragglers: clients of a round that do less than the others, or drop out.

    Attributes:
        why_skipped: why the last round left the model as it was; empty if it did not.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        optimizer: ServerOptimizer,
        schedule: Synchronous,
        parameters: Sequence[str],
        quorum: int = 1,
        *,
        server: ServerSide | None = None,
        config: ClientConfig | None = None,
        root: Callable[[State, int], Tensor] | None = None,
        stragglers: Stragglers | None = None,
    ) -> None:
        self.aggregator, self.optimizer, self.schedule = aggregator, optimizer, schedule
        self.parameters, self.quorum = tuple(parameters), quorum
        self.server, self.config = server or ServerSide(), config or ClientConfig()
        self.root, self.stragglers = root, stragglers
        self.aggregator_states: dict[str, AggregatorState] = {}
        self.optimizer_state: OptimizerState = {}
        self.server_state: ServerState | None = None
        self.why_skipped = ""
        self._sent: State = {}
        self._told = config
        self._population = 0
        self._asked: dict[int, int] = {}
        self._lost: dict[int, int] = {}  # by node, the round from which on none of its updates has counted

    @property
    def uplinks(self) -> tuple[str, ...]:
        """The arrays that clients send beside their update, for the guard to expect."""
        return tuple(f"{slot}/{name}" for slot in self.server.uplinks for name in self.parameters)

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
        if self.server_state is None:
            self.server_state = self.server.begin(flatten(self._sent, self.parameters))
        records = {"arrays": arrays}
        if self.server.sends:
            told = {name: self.server_state[name] for name in self.server.sends}
            records[SERVER] = array_record(
                {
                    key: value
                    for name, vector in told.items()
                    for key, value in slotted(name, unflatten(vector, self._sent, self.parameters)).items()
                }
            )
        cohort = self.schedule.sample(ids, server_round, getattr(grid, "available", None))
        work = dict.fromkeys(cohort, 0) if self.stragglers is None else self.stragglers(cohort, server_round)
        self._asked = work
        about = {**config, "server-round": server_round}
        tasks = {node: (epochs, self._lost.get(node, 0)) for node, epochs in work.items()}
        if self.server.in_step:
            for node in work:  # until its update has counted
                self._lost.setdefault(node, server_round)
        contents = {}  # the messages of a round share their records
        for epochs, since in sorted(set(tasks.values())):
            said = about | ({EPOCHS: epochs} if epochs else {}) | ({LOST: since} if since else {})
            contents[epochs, since] = RecordDict({**records, "config": ConfigRecord(said)})
        return [
            Message(contents[tasks[node]], dst_node_id=node, message_type=MessageType.TRAIN)
            for node in self.schedule.order(list(tasks), server_round)
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next model, or None (keep the old one) when too few sent a usable update."""
        answers = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        valid = [reply for reply in answers if not reply.has_error()]
        needed = max(1, self.quorum, minimum(self.aggregator))
        self.why_skipped = ""
        if len(valid) < needed:
            if not self._asked:
                self.why_skipped = "nobody was asked: the sampler drew no client, or all were stragglers"
            elif len(valid) >= max(1, self.quorum):  # else the Grid knows better what became of the others
                self.why_skipped = f"{len(valid)} usable updates; the aggregator needs {needed}"
            return None, None
        metrics = [figures(reply) for reply in valid]
        weights = torch.tensor([m["num-examples"] for m in metrics], dtype=torch.float64)
        share = weights / weights.sum()
        counted = torch.ones_like(weights) if self.server.uniform else weights
        steps = [one.get("steps", math.nan) for one in metrics]
        facts = Facts(
            self._population,
            counted / counted.sum(),
            torch.tensor(steps, dtype=torch.float64).clamp(max=self._most_steps(valid, metrics)),
            self.config,
        )
        clients = tuple(reply.metadata.src_node_id for reply in valid)
        about = Updates(
            deltas=torch.empty(0),
            weights=counted,
            clients=clients,
            metrics=tuple(metrics),
            steps=None if bool(facts.steps.isnan().any()) else facts.steps,
        )
        records = [only(ArrayRecord, reply, "arrays") for reply in valid]
        before = flatten(self._sent, self.parameters)
        try:
            delta, uplinks, states = self._combined(valid, records, about, facts, server_round)
            delta, state = self.server.end(before, delta, uplinks, self.server_state or {}, facts)
            step, optimizer_state = stepped(self.optimizer, delta, self.optimizer_state)
        except PluginError as error:
            self.why_skipped = str(error)
            return None, None
        self.aggregator_states, self.server_state, self.optimizer_state = states, state, optimizer_state
        for node in clients:
            self._lost.pop(node, None)
        after = unflatten(before + step, self._sent, self.parameters)
        if not all(finite(value) for value in after.values()):
            raise FedlabError(
                f"the model left the range of its number type in round {server_round}: training diverged;"
                " lower clients.learning_rate or strategy.server_optimizer.learning_rate"
            )
        rest = {name: value for name, value in self._sent.items() if name not in self.parameters}
        after |= averaged(records, rest, share)
        return (
            array_record({name: after[name] for name in self._sent}),
            MetricRecord({**averages(metrics, share), "participants": len(valid)}),
        )

    def _most_steps(self, replies: Sequence[Message], metrics: Sequence[dict[str, float]]) -> Tensor:
        """(n,) steps that each client can have taken, as it was told to and with the records that it claims:
        a mean over the clients' steps would bear no lie, however robust the aggregator behind it."""
        most = []
        for reply, one in zip(replies, metrics, strict=True):
            config, epochs = self._told, self._asked.get(reply.metadata.src_node_id, 0)
            if config is not None and epochs:
                config = replace(config, local_steps=None, local_epochs=epochs)
            records = max(1, math.ceil(one["num-examples"]))
            most.append(math.inf if config is None else float(steps_per_round(records, config)))
        return torch.tensor(most, dtype=torch.float64)

    def _combined(
        self,
        replies: Sequence[Message],
        records: Sequence[ArrayRecord],
        about: Updates,
        facts: Facts,
        server_round: int,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, AggregatorState]]:
        """The aggregated delta, the aggregated uplinks, and the aggregator's state for each of them."""
        factors = self.server.factors(facts)
        if factors is not None and about.steps is None:
            raise FedlabError(
                f"the local rule's server ({self.server.name}) counts steps, but clients of round"
                f' {server_round} sent no "steps" among their metrics; use fedlab\'s clients with it'
            )
        states = {"": self.aggregator_states.get("", {})}
        root = self.root(self._sent, server_round) if self.root is not None else None
        delta, states[""] = self._aggregate(
            records, self._sent, self.parameters, about, states[""], server_round, factors, root
        )
        uplinks = {}
        for name in self.server.uplinks:
            names = [f"{name}/{key}" for key in self.parameters]
            zero = {f"{name}/{key}": torch.zeros_like(self._sent[key]) for key in self.parameters}
            sent = [only(ArrayRecord, reply, UPLINK) for reply in replies]
            uplinks[name], states[name] = self._aggregate(
                sent, zero, names, about, self.aggregator_states.get(name, {}), server_round
            )
        return delta, uplinks, states

    def _aggregate(
        self,
        records: Sequence[ArrayRecord],
        before: State,
        names: Sequence[str],
        about: Updates,
        state: AggregatorState,
        server_round: int,
        factors: Tensor | None = None,
        root: Tensor | None = None,
    ) -> tuple[Tensor, AggregatorState]:
        """One vector (d,) of all; `about` says whose and with which weights.

        Raises:
            FedlabError: an update is not finite.
            PluginError: the aggregator failed.
        """
        parts = []
        for block in deltas(
            records, before, names, BLOCK if getattr(self.aggregator, "coordinatewise", False) else None
        ):
            if not finite(block):
                pairs = zip(about.clients, block, strict=True)
                broken = [node for node, delta in pairs if not finite(delta)]
                raise FedlabError(
                    f"nodes {', '.join(map(str, broken))} sent updates with NaN or infinite numbers in round"
                    f" {server_round}: training diverged; lower clients.learning_rate or clip"
                )
            if factors is not None:
                block.mul_(factors[:, None])
            generator = seeds.torch_generator(self.schedule.seed, "aggregator", server_round)
            updates = replace(about, deltas=block, root=root, generator=generator)
            part, state = checked(self.aggregator, updates, state)
            parts.append(part.clone())  # it may be a view of the block
        return torch.cat(parts), state

    def snapshot(self) -> Snapshot:
        """What the aggregator, the optimizer and the rule's server remember.

        Raises:
            PluginError: one of them remembers what a checkpoint cannot hold.
        """
        whole = Snapshot.of({"optimizer": Snapshot.of_state("the optimizer", self.optimizer_state)})
        whole.values |= {"parts": self._parts(), "aggregators": list(self.aggregator_states)}
        for name, state in self.aggregator_states.items():
            whole.put(f"aggregator:{name}", Snapshot.of_state("the aggregator", state))
        whole.values |= {"began": self.server_state is not None, "lost": list(self._lost.items())}
        whole.put("server", Snapshot.of_state("the local rule's server", self.server_state or {}))
        return whole

    def restore(self, snapshot: Snapshot) -> None:
        """Remember it again.

        Raises:
            DataError: the state of another algorithm.
        """
        saved, parts = snapshot.values["parts"], self._parts()
        if saved != parts:
            raise DataError(
                f"the checkpoint comes from another algorithm: {', '.join(saved.values())}, but this one is"
                f" {', '.join(parts.values())}; start a new run"
            )
        self.optimizer_state = snapshot.get("optimizer").state()
        self.aggregator_states = {
            name: snapshot.get(f"aggregator:{name}").state() for name in snapshot.values["aggregators"]
        }
        state = snapshot.get("server").state()
        self.server_state = state if snapshot.values["began"] else None
        self._lost = {node: since for node, since in snapshot.values["lost"]}

    def _parts(self) -> dict[str, str]:
        """What remembers something, by name."""
        return {
            "aggregator": called(self.aggregator),
            "optimizer": type(self.optimizer).__name__,
            "server": self.server.name,
        }

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
        aggregator,
        optimizer,
        Synchronous(cohort, seed, over_selection, sampler, records),
        parameters,
        quorum,
        server=server,
        config=config,
        root=root,
        stragglers=stragglers,
    )
