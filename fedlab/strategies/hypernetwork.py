"""pFedHN: the server learns a hypernetwork that generates a model for each client.

Shamsian, Navon, Fetaya, Chechik, "Personalized Federated Learning using Hypernetworks", ICML 2021,
https://arxiv.org/abs/2103.04628, Algorithm 1. The server holds h(·; φ) and an embedding v_i of each client.
It sends θ_i = h(v_i; φ); the client trains it by its local rule to θ̃_i and sends that back; with
Δθ_i = θ_i − θ̃_i

    ∇φ = (∂θ_i/∂φ)ᵀ Δθ_i,   ∇v_i = (∂θ_i/∂v_i)ᵀ Δθ_i,

clipped together to a norm, the server takes a step of SGD with momentum and weight decay on φ and on all
embeddings. What travels is as large as θ, however large φ is. In pFedHN-PC each client keeps a
classifier of its own, and h generates the rest.

Deviations: the paper asks one client per step (`strategy.cohort = 1`); with more, ∇φ is the mean over
those that answered, all counting the same, and each ∇v_i is its own. Buffers (batch-norm statistics) are
not generated: all clients get the same, averaged as FedAvg would. With `mip` the hypernetwork is magnitude
invariant (`fedlab.tasks.hypernetwork`).

The strategy's model, which is checkpointed, hashed and written at the end of a run, is φ, the embeddings
(row by row in the order of node ids) and the buffers; `models` makes the clients' models of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Annotated, Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from pydantic import Field
from torch import Tensor

from fedlab import seeds
from fedlab.errors import DataError, FedlabError, UsageError
from fedlab.runtime.arrays import Stack, aligned, array_record, array_records, tensors
from fedlab.snapshot import Snapshot
from fedlab.strategies.aggregators import Aggregator
from fedlab.strategies.aggregators.means import weighted_mean
from fedlab.strategies.deltas import averaged
from fedlab.strategies.replies import averages, figures, finite, only
from fedlab.strategies.sampling import Sampler, uniform
from fedlab.strategies.schedules import Synchronous
from fedlab.strategies.server_optimizers import SGD, ServerOptimizer
from fedlab.tasks import State, initialise
from fedlab.tasks.hypernetwork import HyperNetwork, check_sizes

WEIGHTS, EMBEDDINGS = "hypernetwork/", "embeddings"
"""How the server's arrays are named: `hypernetwork/hidden.0.weight`, ..., `hypernetwork/embeddings`."""


class PFedHN(Strategy):
    """φ <- φ − η (∂θ_i/∂φ)ᵀ (θ_i − θ̃_i), and v_i likewise, for θ_i = h(v_i; φ) that client i trained to θ̃_i.

    Args:
        schedule: who is asked, and the seed.
        parameters: names of what is generated; all other arrays are buffers.
        quorum: usable replies that a round needs.
        embedding, hidden, mip: of the hypernetwork; embeddings of 1 + N/4 numbers for N clients unless given.
        learning_rate, momentum, weight_decay, clip: of the server's SGD.

    Attributes:
        why_skipped: why the last round left the model as it was; empty if it did not.

    Raises:
        UsageError: a number out of range.
    """

    def __init__(
        self,
        schedule: Synchronous,
        parameters: Sequence[str],
        quorum: int = 1,
        *,
        embedding: int | None = None,
        hidden: Sequence[int] = (100, 100, 100),
        mip: bool = False,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-3,
        clip: float = 50.0,
    ) -> None:
        check_sizes(1 if embedding is None else embedding, hidden)
        for what, value, sound in (
            ("learning_rate", learning_rate, 0.0 < learning_rate < math.inf),
            ("momentum", momentum, 0.0 <= momentum < 1.0),
            ("weight_decay", weight_decay, 0.0 <= weight_decay < math.inf),
            ("clip", clip, 0.0 < clip < math.inf),
        ):
            if not sound:
                raise UsageError(f"{what} = {value}; out of range (fedlab info pfedhn shows which it takes)")
        self.schedule, self.parameters, self.quorum = schedule, tuple(parameters), quorum
        self.embedding, self.hidden, self.mip = embedding, tuple(hidden), mip
        self.learning_rate, self.momentum = learning_rate, momentum
        self.weight_decay, self.clip = weight_decay, clip
        self.why_skipped = ""
        self._first: State = {}
        self._network: HyperNetwork | None = None
        self._velocity: State = {}
        self._model: State = {}
        self._sent: State = {}
        self._rows: dict[int, tuple[int, int]] = {}

    def summary(self) -> None:
        """Flower prints this at the start of a run; the scenario says it all already."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """To each client of this round's cohort its own model."""
        nodes = _ascending(grid)
        self._model = self._unpacked(arrays, len(nodes))
        cohort = self.schedule.sample(nodes, server_round, getattr(grid, "available", None))
        rows = [nodes.index(node) for node in cohort]
        self._rows = {node: (place, row) for place, (node, row) in enumerate(zip(cohort, rows, strict=True))}
        with torch.no_grad():
            self._sent = self._generate(_weights(self._model), self._model[WEIGHTS + EMBEDDINGS][rows])
        common = {name: value.expand(len(rows), *value.shape) for name, value in self._buffers().items()}
        stacks = {name: Stack(value) for name, value in (self._sent | common).items()}
        about = ConfigRecord({**config, "server-round": server_round})
        return [
            Message(
                RecordDict({"arrays": record, "config": about}),
                dst_node_id=node,
                message_type=MessageType.TRAIN,
            )
            for node, record in zip(cohort, array_records(stacks, len(cohort)), strict=True)
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The server's step, or None (keep the old model) when too few sent a usable model."""
        answers = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        valid = [reply for reply in answers if not reply.has_error()]
        needed = max(1, self.quorum)
        self.why_skipped = ""
        if len(valid) < needed:
            self.why_skipped = f"{len(valid)} usable updates; the quorum needs {needed}"
            return None, None
        metrics = [figures(reply) for reply in valid]
        counts = torch.tensor([one["num-examples"] for one in metrics], dtype=torch.float64)
        records = [only(ArrayRecord, reply, "arrays") for reply in valid]
        places, rows = zip(*(self._rows[reply.metadata.src_node_id] for reply in valid), strict=True)
        answered = [tensors(record) for record in records]
        moved = {
            name: self._sent[name][list(places)] - torch.stack([one[name] for one in answered])
            for name in self.parameters
        }
        after = self._stepped(self._gradient(moved, rows))
        if not all(finite(value) for value in after.values()):
            raise FedlabError(
                f"the hypernetwork left the range of its number type in round {server_round}: training"
                " diverged; lower clients.learning_rate or strategy.options.learning_rate"
            )
        share = counts / counts.sum()
        after |= averaged(records, self._buffers(), share)
        return array_record(after), MetricRecord({**averages(metrics, share), "participants": len(valid)})

    def _gradient(self, moved: State, rows: Sequence[int]) -> State:
        """Of φ (mean over clients) and of all embeddings, by their names in the model.

        Args:
            moved: θ_i − θ̃_i by parameter, (n, ...).
            rows: of those n clients among the embeddings.
        """
        every = self._model[WEIGHTS + EMBEDDINGS]
        made: Any = torch.func.vjp(self._generate, _weights(self._model), every[list(rows)])
        weights, own = made[1](moved)
        gradient = {WEIGHTS + name: value / len(rows) for name, value in weights.items()}
        gradient[WEIGHTS + EMBEDDINGS] = torch.zeros_like(every).index_copy(0, torch.tensor(rows), own)
        norm = torch.stack([value.double().square().sum() for value in gradient.values()]).sum().sqrt()
        factor = min(1.0, self.clip / (float(norm) + 1e-6))
        return {name: factor * value for name, value in gradient.items()}

    def _stepped(self, gradient: State) -> State:
        """The server's arrays after a step of torch.optim.SGD."""
        after = {}
        for name, value in gradient.items():
            slope = value + self.weight_decay * self._model[name]
            old = self._velocity.get(name)
            self._velocity[name] = slope if old is None else self.momentum * old + slope
            after[name] = self._model[name] - self.learning_rate * self._velocity[name]
        return after

    def models(self, arrays: ArrayRecord, nodes: Sequence[int]) -> Iterator[ArrayRecord]:
        """The model of each client, in the order of `nodes`: all there are, ascending."""
        self._model = self._unpacked(arrays, len(nodes))
        for embedding in self._model[WEIGHTS + EMBEDDINGS]:
            with torch.no_grad():
                made = self._generate(_weights(self._model), embedding)
            yield array_record(made | self._buffers())

    def _unpacked(self, arrays: ArrayRecord, clients: int) -> State:
        """The server's model; before the first round it is made, to generate a model like `arrays`."""
        state = aligned(tensors(arrays))
        if WEIGHTS + EMBEDDINGS in state:
            return state
        self._first = state
        embeddings = torch.randn(
            clients,
            self._size(clients),
            generator=seeds.torch_generator(self.schedule.seed, "embeddings"),
        )
        weights = {WEIGHTS + name: value.detach() for name, value in self._made(clients).named_parameters()}
        buffers = {name: value for name, value in state.items() if name not in self.parameters}
        return {**weights, WEIGHTS + EMBEDDINGS: embeddings, **buffers}

    def _size(self, clients: int) -> int:
        return 1 + clients // 4 if self.embedding is None else self.embedding

    def _made(self, clients: int) -> HyperNetwork:
        """The hypernetwork, made at first use."""
        if self._network is None:
            like = {name: self._first[name] for name in self.parameters}
            made = initialise(
                lambda: HyperNetwork(like, self._size(clients), self.hidden, mip=self.mip),
                seeds.derive(self.schedule.seed, "hypernetwork"),
            )
            assert isinstance(made, HyperNetwork)
            self._network = made.requires_grad_(False)
        return self._network

    def _generate(self, weights: State, embeddings: Tensor) -> State:
        """θ for one embedding (e,), or of several (n, e)."""
        network = self._made(len(self._model[WEIGHTS + EMBEDDINGS]))
        made: State = torch.func.functional_call(network, weights, (embeddings,))
        return made

    def _buffers(self) -> State:
        return {name: value for name, value in self._model.items() if not name.startswith(WEIGHTS)}

    def snapshot(self) -> Snapshot:
        """The optimizer's velocity, and the model before the first round: what h generates is like it."""
        return Snapshot.of({"velocity": Snapshot(dict(self._velocity)), "first": Snapshot(dict(self._first))})

    def restore(self, snapshot: Snapshot) -> None:
        """Remember it again.

        Raises:
            DataError: the state of another algorithm.
        """
        if not {"velocity", "first"} <= snapshot.values.keys():
            raise DataError("the checkpoint comes from another algorithm than pfedhn; start a new run")
        self._velocity = dict(snapshot.get("velocity").tensors)
        self._first = dict(snapshot.get("first").tensors)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Whoever runs the rounds evaluates, with `models`."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Whoever runs the rounds evaluates."""
        return None


def _weights(model: State) -> State:
    """φ, by the hypernetwork's own names."""
    own = {name.removeprefix(WEIGHTS): value for name, value in model.items() if name.startswith(WEIGHTS)}
    own.pop(EMBEDDINGS)
    return own


def _ascending(grid: Grid) -> Sequence[int]:
    nodes = grid.get_node_ids()
    return nodes if isinstance(nodes, range) else sorted(nodes)


def pfedhn(
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
    personal: Collection[str] = (),
    embedding: Annotated[int | None, Field(ge=1)] = None,
    hidden: tuple[int, ...] = (100, 100, 100),
    mip: bool = False,
    learning_rate: Annotated[float, Field(gt=0)] = 0.01,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3,
    clip: Annotated[float, Field(gt=0)] = 50.0,
) -> Strategy:
    """θ_i = h(v_i; φ); φ <- φ − η (∂θ_i/∂φ)ᵀ Δθ_i and v_i likewise, for each client's Δθ_i.

    Shamsian et al., "Personalized Federated Learning using Hypernetworks", ICML 2021,
    https://arxiv.org/abs/2103.04628.

    The paper asks one client per round (cohort = 1) for 50 local steps. What `fedlab info` lists goes into
    `[strategy.options]`.

    Args:
        embedding: numbers in a client's embedding v_i; 1 + N/4 for N clients unless given.
        hidden: units of each hidden layer of the hypernetwork.
        mip: whether the hypernetwork is magnitude invariant (Ortiz et al., ICLR 2024).
        learning_rate: η of the server's SGD.
        momentum: of the server's SGD.
        weight_decay: of the server's SGD, on φ and on all embeddings.
        clip: largest norm of the server's gradient.
    """
    if getattr(aggregator, "function", None) is not weighted_mean or optimizer != SGD():
        raise UsageError(
            "pfedhn combines what clients send by its own rule and steps by its own SGD; leave"
            " strategy.aggregator and strategy.server_optimizer out, and set strategy.options"
            " (learning_rate, momentum, weight_decay, clip)"
        )
    return PFedHN(
        Synchronous(cohort, seed, over_selection, sampler, records),
        parameters,
        quorum,
        embedding=embedding,
        hidden=hidden,
        mip=mip,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        clip=clip,
    )


@functools.wraps(pfedhn)
def pfedhn_pc(*, personal: Collection[str] = (), **rest: Any) -> Strategy:
    if not personal:
        raise UsageError(
            "pfedhn-pc generates what clients share and leaves each its own classifier, but no client keeps"
            ' anything; set strategy.local_rule = "personal-head", or choose the strategy pfedhn'
        )
    return pfedhn(personal=personal, **rest)


pfedhn_pc.__doc__ = str(pfedhn.__doc__).replace(
    "θ_i = h(v_i; φ); φ", "Client i runs (h(v_i; φ), its own classifier); φ"
)
