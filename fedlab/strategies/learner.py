"""What a server makes of updates, whenever they come: aggregator × server optimizer × local rule's server.

A `Learner` is an algorithm without its schedule. An update is what a client moved the model by that it
started from, which need not be the one that the server has by now.

Deviations from flwr's FedAvg: aggregation works on deltas, in float64, in the order of client ids (flwr sums
float32 weights in the order of arrival); without a usable update the model stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from torch import Tensor

from fedlab import seeds
from fedlab.clients import ClientConfig
from fedlab.clients.plan import steps_per_round
from fedlab.clients.rules import Facts, ServerSide, ServerState, slotted
from fedlab.errors import DataError, FedlabError, PluginError
from fedlab.runtime.arrays import SERVER, UPLINK, array_record
from fedlab.snapshot import Snapshot
from fedlab.strategies.aggregators import Aggregator, AggregatorState, Updates, called, checked
from fedlab.strategies.deltas import BLOCK, averaged, deltas, flatten, unflatten
from fedlab.strategies.replies import averages, figures, finite, only
from fedlab.strategies.server_optimizers import OptimizerState, ServerOptimizer, stepped
from fedlab.tasks import State


@dataclass(frozen=True)
class Arrival:
    """A reply without error, and what the server makes of it.

    Attributes:
        before: the model that the update is measured from.
        scale: the update is multiplied by it before it is aggregated, from 0 to 1.
        weight: its weight in the aggregation is multiplied by it, likewise.
        epochs: local epochs that the client was told to do; 0 for what all do.
        round, repeat: what the client was told with its model, where that was not in this very round.
    """

    reply: Message
    before: State
    scale: float = 1.0
    weight: float = 1.0
    epochs: int = 0
    round: int | None = None
    repeat: int = 0

    @property
    def node(self) -> int:
        return self.reply.metadata.src_node_id


Combined = Callable[[Sequence[Arrival], Tensor, State, int], None]


class Learner:
    """Turns updates into the next model, and remembers what its parts have to.

    Args:
        parameters: names of the learned tensors that travel; all other arrays (batch-norm statistics) are
            averaged with the clients' weights and take no optimizer step.
        seed: of the aggregator's own draws.
        server: the server's half of the clients' local rule.
        config: how the clients train, for rules whose server must know it; no client's steps then count
            for more than it was told to take.
        root: the update (d,) that the server's own records make of a model in a round, for aggregators
            that compare clients with it.

    Attributes:
        why_skipped: why the last call of `combine` made no model; empty if it did.
        charge: called with (nodes, round) before their updates are combined: the place where a mechanism at
            the server writes down what it is going to spend.
        combined: called with (arrivals, delta, model, round) after a model was made of them; delta (d,) is
            what the aggregator made of the updates: all that a server sees which sees sums only.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        optimizer: ServerOptimizer,
        parameters: Sequence[str],
        seed: int,
        *,
        server: ServerSide | None = None,
        config: ClientConfig | None = None,
        root: Callable[[State, int], Tensor] | None = None,
    ) -> None:
        self.aggregator, self.optimizer, self.parameters = aggregator, optimizer, tuple(parameters)
        self.seed, self.root = seed, root
        self.server, self.config = server or ServerSide(), config or ClientConfig()
        self.aggregator_states: dict[str, AggregatorState] = {}
        self.optimizer_state: OptimizerState = {}
        self.server_state: ServerState | None = None
        self.why_skipped = ""
        self.charge: Callable[[Sequence[int], int], None] = lambda nodes, round: None
        self.combined: Combined = lambda arrivals, delta, model, round: None
        self._told = config

    @property
    def uplinks(self) -> tuple[str, ...]:
        """The arrays that clients send beside their update, for the guard to expect."""
        return tuple(f"{slot}/{name}" for slot in self.server.uplinks for name in self.parameters)

    def records(self, arrays: ArrayRecord, model: State) -> dict[str, ArrayRecord]:
        """What clients are sent: the model, given in both forms, and what the rule's server tells them."""
        if self.server_state is None:
            self.server_state = self.server.begin(flatten(model, self.parameters))
        if not self.server.sends:
            return {"arrays": arrays}
        told = {
            key: value
            for name in self.server.sends
            for key, value in slotted(
                name, unflatten(self.server_state[name], model, self.parameters)
            ).items()
        }
        return {"arrays": arrays, SERVER: array_record(told)}

    def combine(
        self, arrivals: Sequence[Arrival], model: State, round: int, population: int
    ) -> tuple[ArrayRecord, MetricRecord] | None:
        """The next model and the mean of the clients' metrics; None if the aggregator found no update.

        Args:
            model: what the server has now.
            round: the number of the update that it makes, from 1.
            population: how many clients there are.

        Raises:
            FedlabError: training diverged.
        """
        ordered = sorted(arrivals, key=lambda arrival: arrival.node)
        self.charge([arrival.node for arrival in ordered], round)
        metrics = [figures(arrival.reply) for arrival in ordered]
        examples = torch.tensor([one["num-examples"] for one in metrics], dtype=torch.float64)
        weights = torch.tensor([arrival.weight for arrival in ordered], dtype=torch.float64)
        own = torch.ones_like(examples) if self.server.uniform else examples
        counted, share = own * weights, examples * weights
        share = share / share.sum()
        steps = [one.get("steps", math.nan) for one in metrics]
        facts = Facts(
            population,
            counted / counted.sum(),
            torch.tensor(steps, dtype=torch.float64).clamp(max=self._most_steps(ordered, metrics)),
            self.config,
        )
        about = Updates(
            deltas=torch.empty(0),
            weights=counted,
            clients=tuple(arrival.node for arrival in ordered),
            metrics=tuple(metrics),
            steps=None if bool(facts.steps.isnan().any()) else facts.steps,
            round=round,
        )
        before = flatten(model, self.parameters)
        self.why_skipped = ""
        try:
            seen, uplinks, states = self._combined(ordered, model, about, own, facts, round)
            delta, state = self.server.end(before, seen, uplinks, self.server_state or {}, facts)
            step, optimizer_state = stepped(self.optimizer, delta, self.optimizer_state)
        except PluginError as error:
            self.why_skipped = str(error)
            return None
        self.aggregator_states, self.server_state, self.optimizer_state = states, state, optimizer_state
        after = unflatten(before + step, model, self.parameters)
        if not all(finite(value) for value in after.values()):
            raise FedlabError(
                f"the model left the range of its number type in round {round}: training diverged;"
                " lower clients.learning_rate or strategy.server_optimizer.learning_rate"
            )
        rest = {name: value for name, value in model.items() if name not in self.parameters}
        records = [only(ArrayRecord, arrival.reply, "arrays") for arrival in ordered]
        scales = torch.tensor([arrival.scale for arrival in ordered], dtype=torch.float64)
        after |= averaged(records, rest, share * scales)
        self.combined(ordered, seen, after, round)
        return (
            array_record({name: after[name] for name in model}),
            MetricRecord({**averages(metrics, share), "participants": len(ordered)}),
        )

    def _most_steps(self, arrivals: Sequence[Arrival], metrics: Sequence[dict[str, float]]) -> Tensor:
        """(n,) steps that each client can have taken, as it was told to and with the records that it claims:
        a mean over the clients' steps would bear no lie, however robust the aggregator behind it."""
        most = []
        for arrival, one in zip(arrivals, metrics, strict=True):
            config = self._told
            if config is not None and arrival.epochs:
                config = replace(config, local_steps=None, local_epochs=arrival.epochs)
            records = max(1, math.ceil(one["num-examples"]))
            most.append(math.inf if config is None else float(steps_per_round(records, config)))
        return torch.tensor(most, dtype=torch.float64)

    def _combined(
        self,
        arrivals: Sequence[Arrival],
        model: State,
        about: Updates,
        own: Tensor,
        facts: Facts,
        round: int,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, AggregatorState]]:
        """The aggregated delta, the aggregated uplinks, and the aggregator's state for each of them.

        What a client sends beside its update counts with its own weight, however late it comes: it is what
        the client's memory changed by.
        """
        factors = self.server.factors(facts)
        if factors is not None and about.steps is None:
            raise FedlabError(
                f"the local rule's server ({self.server.name}) counts steps, but clients of round"
                f' {round} sent no "steps" among their metrics; use fedlab\'s clients with it'
            )
        if any(arrival.scale != 1.0 for arrival in arrivals):
            scales = torch.tensor([arrival.scale for arrival in arrivals], dtype=torch.float64)
            factors = scales if factors is None else factors * scales
        states = {"": self.aggregator_states.get("", {})}
        root = self.root(model, round) if self.root is not None else None
        records = [only(ArrayRecord, arrival.reply, "arrays") for arrival in arrivals]
        origins = [arrival.before for arrival in arrivals]
        delta, states[""] = self._aggregate(
            records, origins, self.parameters, about, states[""], round, factors, root
        )
        uplinks, about = {}, replace(about, weights=own)
        for name in self.server.uplinks:
            names = [f"{name}/{key}" for key in self.parameters]
            zero = {f"{name}/{key}": torch.zeros_like(model[key]) for key in self.parameters}
            sent = [only(ArrayRecord, arrival.reply, UPLINK) for arrival in arrivals]
            uplinks[name], states[name] = self._aggregate(
                sent, [zero] * len(sent), names, about, self.aggregator_states.get(name, {}), round
            )
        return delta, uplinks, states

    def _aggregate(
        self,
        records: Sequence[ArrayRecord],
        origins: Sequence[State],
        names: Sequence[str],
        about: Updates,
        state: AggregatorState,
        round: int,
        factors: Tensor | None = None,
        root: Tensor | None = None,
    ) -> tuple[Tensor, AggregatorState]:
        """One vector (d,) of all; `about` says whose and with which weights.

        Raises:
            FedlabError: an update is not finite.
            PluginError: the aggregator failed.
        """
        parts = []
        width = BLOCK if getattr(self.aggregator, "coordinatewise", False) else None
        for block in deltas(records, origins, names, width):
            if not finite(block):
                pairs = zip(about.clients, block, strict=True)
                broken = [node for node, delta in pairs if not finite(delta)]
                raise FedlabError(
                    f"nodes {', '.join(map(str, broken))} sent updates with NaN or infinite numbers in round"
                    f" {round}: training diverged; lower clients.learning_rate or clip"
                )
            if factors is not None:
                block.mul_(factors[:, None])
            generator = seeds.torch_generator(self.seed, "aggregator", round)
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
        whole.values["began"] = self.server_state is not None
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

    def _parts(self) -> dict[str, str]:
        """What remembers something, by name."""
        return {
            "aggregator": called(self.aggregator),
            "optimizer": type(self.optimizer).__name__,
            "server": self.server.name,
        }
