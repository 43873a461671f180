"""A cell's own noise and sampling, as `fedlab.privacy.mechanism` wants to try them.

What is tried is the code that trained the cell: the local loop with the defense's rule in it, on the cell's
network and configuration; the defense's aggregator; the plan of batches; the sampler of clients. What is put
in are gradients of one's choice instead of records (`Told`), at parameters that are zero, so that what comes
back is the release itself.

A rule or an aggregator that adds noise says what it clips to in an attribute `claim`
(`fedlab.privacy.mechanism.Claim`). Local rules around and inside of it are left out: what they make of a
release is post-processing, or happens before it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab import plugins, seeds
from fedlab.audit import Defense
from fedlab.clients import ClientConfig, Federation, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.clients.rules import Aux, Batch, Carry, GradFn, WrappedRule
from fedlab.privacy.mechanism import Claim, Release, Sampling
from fedlab.privacy.releases import Floats
from fedlab.scenario.schema import Strategy as StrategySettings
from fedlab.strategies import Aggregator, Updates
from fedlab.strategies.deltas import flatten
from fedlab.strategies.sampling import Population
from fedlab.tasks import FunctionalModel, State, Task

Loss = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[State, torch.Generator], State]


class Kept(WrappedRule):
    """Another rule, whose latest draws are kept, so that those of the operating system repeat as well."""

    def __init__(self, inner: LocalRule) -> None:
        super().__init__(inner)
        self._kept: dict[str, tuple[int, State]] = {}

    def draws(self, parameters: State, generator: torch.Generator) -> State:
        return self._again("draws", self.inner.draws, parameters, generator)

    def ending(self, parameters: State, generator: torch.Generator) -> State:
        return self._again("ending", self.inner.ending, parameters, generator)

    def _again(self, kind: str, draw: Draw, parameters: State, generator: torch.Generator) -> State:
        place = generator.initial_seed()
        if kind not in self._kept or self._kept[kind][0] != place:
            self._kept[kind] = place, draw(parameters, generator)
        return self._kept[kind][1]


class Told(Kept):
    """Another rule, whose records are gradients."""

    def direction(
        self, grad_fn: GradFn, parameters: State, batch: Batch, carry: Carry
    ) -> tuple[State, Aux, Carry]:
        def told(values: State, part: Batch) -> tuple[State, Aux]:
            mean = (part.rows[:, None] * part.x).sum(0) / part.rows.sum().clamp(min=1.0)
            return shaped(mean, values), Aux(mean.new_zeros(()), {})

        return self.inner.direction(told, parameters, batch, carry)


def shaped(vector: Tensor, like: State) -> State:
    """A vector (d,) as parameters; also under `vmap`."""
    parts = torch.split(vector, [value.numel() for value in like.values()])
    return {
        name: part.reshape(value.shape).to(value.dtype)
        for part, (name, value) in zip(parts, like.items(), strict=True)
    }


class Vectors:
    """Records made of vectors (n, d), in the shape that is wanted; each set of them has ids of its own."""

    name, source, licence, synthetic, pixels = "probes", "made up", "none", True, False

    def __init__(self, shape: tuple[int, ...], classes: int = 1) -> None:
        self.shape, self.classes = shape, classes
        self._rows, self._first = torch.zeros(1, *shape), 0

    def put(self, vectors: Floats) -> NDArray[np.int64]:
        """Take these in place of the earlier ones; their ids."""
        self._first += len(self._rows)
        with np.errstate(over="ignore"):
            rows = torch.from_numpy(np.asarray(vectors, dtype=np.float32))
        self._rows = rows.reshape(-1, *self.shape)
        return np.arange(self._first, self._first + len(self._rows))

    def __len__(self) -> int:
        return self._first + len(self._rows)

    def images(self, ids: NDArray[np.int64] | Sequence[int]) -> Tensor:
        return self._rows[torch.as_tensor(np.asarray(ids) - self._first)]

    def labels(self, ids: NDArray[np.int64] | Sequence[int]) -> Tensor:
        """A record's label goes by what it holds, so that it keeps it wherever it stands."""
        sums = self.images(ids).flatten(1).double().nan_to_num(0.0, 0.0, 0.0).abs().sum(1)
        return (1e3 * sums).clamp(max=1e9).long() % self.classes

    def sha256(self) -> str:
        return ""


def noisy(rule: LocalRule) -> tuple[LocalRule, Claim] | None:
    """The rule among those around each other that adds noise, by itself, and what it claims."""
    layer: LocalRule | None = rule
    while layer is not None:
        claim = getattr(layer, "claim", None)
        if isinstance(claim, Claim):
            bare = copy.copy(layer)
            if isinstance(bare, WrappedRule):
                bare.inner = LocalRule()
            return bare, claim
        layer = layer.inner if isinstance(layer, WrappedRule) else None
    return None


@dataclass(frozen=True)
class Step:
    """One step of a client, or one update: the rule that adds noise to it, and what the ledger has of it.

    Attributes:
        rule: around none that does anything.
        records: n; sigma, rate: σ and q. The sum over records is accounted with K = q n.
    """

    rule: LocalRule
    claim: Claim
    model: FunctionalModel
    config: ClientConfig
    records: int
    sigma: float
    rate: float
    seed: int

    def of_gradients(self) -> Release:
        """What it makes of given gradients, at parameters that are zero."""
        parameters = self.model.parameters_of(self.model.state())
        zero = {name: torch.zeros_like(value) for name, value in parameters.items()}
        state = zero | self.model.buffers_of(self.model.state())
        dimension = sum(value.numel() for value in zero.values())
        return self._release(Told(self.rule), Vectors((dimension,)), no_loss, state)

    def of_records(self, task: Task) -> Release:
        """What it makes of records of the task's kind, whose values are given, in inference mode.

        In training mode a batch's masks are drawn together: one record less moves the others' as well, as
        chance does, which is no record's influence.
        """
        still = replace(self, config=replace(self.config, mode="eval"))
        data = Vectors(task.train.shape, task.train.classes)
        release = still._release(Kept(self.rule), data, task.loss, self.model.state())
        return replace(release, name="records")

    def _release(self, rule: LocalRule, data: Vectors, loss: Loss, state: State) -> Release:
        plain = replace(self.config, momentum=0.0, weight_decay=0.0, learning_rate=1.0, local_steps=1)
        training = LocalTraining(self.model, loss, data, rule, plain, self.seed, stacked=False)
        names, dimension = list(self.model.parameters_of(state)), math.prod(data.shape)
        before = flatten(state, names)

        def make(vectors: Floats, draw: int) -> Floats:
            ids = data.put(vectors if len(vectors) else np.zeros((1, dimension)))
            owned = np.resize(ids, self.records)
            job = ClientJob(0, draw, state, {}, owned, [np.arange(len(vectors))])
            released: Floats = (before - flatten(training([job])[0].state, names)).numpy()
            return released

        whole = self.claim.unit == "update"
        return Release(
            make,
            dimension,
            self.claim.factor * self.sigma,
            self.claim.clip,
            1.0 if whole else self.rate * self.records,
            most=1 if whole else min(self.records, fitting(dimension)),
        )


def fitting(dimension: int) -> int:
    """How many vectors are tried at once at most."""
    return max(2, min(64, 2 * 10**7 // dimension))


def of_plan(records: int, config: ClientConfig, rate: float, seed: int, client: int) -> Sampling:
    """The batches of one client."""
    return Sampling(lambda number: plan_batches(records, config, seed, number, client), records, rate)


def of_aggregator(
    defense: Defense, inner: Aggregator, federation: Federation, dimension: int, sigma: float, seed: int
) -> Release | None:
    """The first model that the defense's aggregator makes; None if it claims nothing.

    Its noise is drawn from the seed tree here: the operating system's does not repeat.
    """
    seeded = replace(federation, secure=False)
    claim = getattr(defense.aggregator(inner, seeded), "claim", None)
    if not isinstance(claim, Claim):
        return None

    def make(vectors: Floats, draw: int) -> Floats:
        mine = seeds.derive(seed, "probe", draw)
        aggregator = defense.aggregator(inner, replace(seeded, seed=mine))
        deltas = torch.from_numpy(np.array(vectors, dtype=np.float64))
        updates = Updates(
            deltas=deltas,
            weights=torch.ones(len(deltas), dtype=torch.float64),
            clients=tuple(range(len(deltas))),
            generator=torch.Generator().manual_seed(mine),
        )
        released: Floats = aggregator.aggregate(updates, {})[0].numpy()
        return released

    noise, cohort = claim.factor * sigma, float(federation.cohort)
    most = fitting(dimension)
    return Release(make, dimension, noise, claim.clip, cohort, most=most, guarded=True)


def of_sampler(settings: StrategySettings, clients: int, rate: float, seed: int) -> Sampling:
    """Whom rounds ask."""
    sampler = plugins.build("samplers", settings.sampling)
    population = Population(range(clients))

    def draw(number: int) -> list[NDArray[np.int64]]:
        generator = seeds.numpy_generator(seed, "probe", number)
        return [np.asarray(sampler(population, settings.cohort, number + 1, generator), dtype=np.int64)]

    return Sampling(draw, clients, rate)


def no_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Of records that are gradients nobody asks for a loss."""
    return outputs.reshape(len(outputs), -1).sum(1)
