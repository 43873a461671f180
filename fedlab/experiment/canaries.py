"""One client's private training once more, on canaries that an auditor tries to tell from those left out.

The white-box audit of Steinke, Nasr, Jagielski (NeurIPS 2023, https://arxiv.org/abs/2305.08846, §6), on one
client. A canary is a record whose gradient is longer than any clipping allows and points along a coordinate
of its own or, where there are more canaries than coordinates, in a random direction. A fair coin decides
whether the gradient is that or zero. The rest is the cell's: the defense's rule around the local rule, the
network's shapes, the plan of batches, the local loop, the rounds in which the client took part, and its steps
in each.

The score of a canary is how far the model moved against its gradient from the first round to the last: the
sum, over rounds, of the canary's direction times what the server saw. The auditor guesses the extremes.

Deviations: the m canaries are all the records that there are. ε is about any records, and an auditor who
knows all others could take what they do off again; beside real ones the same audit proves less. The batch
size keeps the sample rate as near as it can be; ε is that of the rate that came of it. The server's model is
the client's own, because others move it in ways that the auditor knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlab import seeds
from fedlab.clients import ClientConfig, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.errors import UsageError
from fedlab.experiment.probing import Told, no_loss
from fedlab.privacy import epsilon_of
from fedlab.privacy.one_run import OneRun, one_run
from fedlab.strategies.deltas import flatten
from fedlab.tasks import FunctionalModel, State

LENGTH = 1e6
"""Length of a canary's gradient, which clipping brings down to what it allows."""

LARGEST = 10**8
"""Numbers in the directions of canaries that do not fit into coordinates of their own."""


class Round(NamedTuple):
    """One round of the client that is audited, as the ledger has it."""

    number: int
    sigma: float
    rate: float
    steps: int


class Canaries:
    """Records whose pixels are their gradients (d,), zero for those that were left out.

    Attributes:
        included: (m,) the coins.

    Raises:
        UsageError: they take too much memory.
    """

    name, source, licence, synthetic, pixels, classes = "canaries", "made up", "none", True, False, 1

    def __init__(self, count: int, dimension: int, seed: int) -> None:
        generator = seeds.numpy_generator(seed, "canaries")
        self.shape, self.included = (dimension,), generator.random(count) < 0.5
        self._lengths = torch.from_numpy(np.where(self.included, LENGTH, 0.0).astype(np.float32))
        self._coordinates = torch.empty(0)
        self._directions: Tensor | None = None
        if count <= dimension:
            self._coordinates = torch.from_numpy(generator.choice(dimension, count, replace=False))
        elif count * dimension > LARGEST:
            raise UsageError(
                f"privacy.canaries.count = {count}, but the network has {dimension} parameters; expected no"
                " more canaries than parameters in a network of that size"
            )
        else:
            drawn = torch.from_numpy(generator.standard_normal((count, dimension)).astype(np.float32))
            self._directions = drawn / drawn.norm(dim=1, keepdim=True)

    def __len__(self) -> int:
        return len(self.included)

    def images(self, ids: NDArray[np.int64] | Sequence[int]) -> Tensor:
        wanted = torch.as_tensor(np.asarray(ids))
        lengths = self._lengths[wanted]
        if self._directions is not None:
            return lengths[:, None] * self._directions[wanted]
        rows = torch.zeros(len(wanted), *self.shape)
        rows[torch.arange(len(wanted)), self._coordinates[wanted]] = lengths
        return rows

    def labels(self, ids: NDArray[np.int64] | Sequence[int]) -> Tensor:
        return torch.zeros(len(ids), dtype=torch.int64)

    def sha256(self) -> str:
        return ""

    def scores(self, moved: Tensor) -> NDArray[np.float64]:
        """(m,) how far a model that moved by (d,) went against each canary's gradient."""
        along = moved[self._coordinates] if self._directions is None else self._directions.double() @ moved
        scores: NDArray[np.float64] = -along.numpy()
        return scores


@dataclass(frozen=True)
class Audit:
    """What is trained on canaries, and how it is judged.

    Attributes:
        rule: the cell's whole rule; it must bound what a single record does.
        rounds: in which the client took part, at least one; all at the same rate.
        guesses: fixed by now.
    """

    rule: LocalRule
    model: FunctionalModel
    config: ClientConfig
    rounds: Sequence[Round]
    canaries: int
    guesses: int
    delta: float
    confidence: float
    seed: int


def audited(audit: Audit, report: Callable[[int, int], None] = lambda done, total: None) -> OneRun:
    """Train one client on canaries, and bound ε from below.

    Args:
        report: is told after each round how many of how many are done.

    Raises:
        UsageError: the canaries take too much memory.
    """
    rule, model, config, rounds = audit.rule, audit.model, audit.config, audit.rounds
    canaries, seed = audit.canaries, audit.seed
    start = model.state()
    names = list(model.parameters_of(start))
    planted = Canaries(canaries, sum(start[name].numel() for name in names), seed)
    rate = rounds[0].rate
    size = canaries if rate == 1.0 else max(1, round(rate * canaries))
    config = replace(config, batch_size=size)
    training = LocalTraining(model, no_loss, planted, Told(rule), config, seed, stacked=False)
    state, memory = start, State()
    spent: dict[tuple[float, float], int] = {}
    for done, one in enumerate(rounds):
        report(done, len(rounds))
        plan = plan_batches(canaries, replace(config, local_steps=one.steps), seed, one.number, 0)
        job = ClientJob(0, one.number, state, memory, np.arange(canaries), plan)
        result = training([job])[0]
        state, memory = result.state, result.memory
        step = one.sigma, size / canaries
        spent[step] = spent.get(step, 0) + one.steps
    epsilon = epsilon_of(spent, audit.delta).epsilon
    return one_run(
        planted.scores(flatten(state, names) - flatten(start, names)),
        planted.included,
        audit.guesses,
        delta=audit.delta,
        epsilon=epsilon if np.isfinite(epsilon) else None,
        confidence=audit.confidence,
    )
