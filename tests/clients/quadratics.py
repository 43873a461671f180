"""Clients that minimise f_i(x) = a_i (x − b_i)²/2 for one number x, through Grid, messages and strategy.

A record holds a/8 and (b + 4)/8, which binary numbers hold exactly; the model is x, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from flwr.app import Context, Message
from torch import Tensor, nn

from fedlab.clients import ClientConfig, LocalRule
from fedlab.clients.app import MEMORY, CohortApp
from fedlab.runtime import Executor, SimulationGrid
from fedlab.runtime.arrays import array_record, tensors
from fedlab.strategies import SGD, Composition, Learner, Synchronous, as_aggregator
from fedlab.strategies.aggregators import weighted_mean
from fedlab.strategies.rounds import rounds
from fedlab.tasks import Dataset, Task

CURVATURES, CENTRES = (1.0, 4.0, 0.5), (0.0, 1.0, -3.0)
OPTIMUM = 5.0 / 11.0
"""Σ ab / Σ a = (0 + 4 − 1.5)/5.5."""


class Point(nn.Module):
    """Outputs are the losses a(x − b)²/2 themselves, (B, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, records: Tensor) -> Tensor:
        a, b = 8.0 * records[:, 0, 0, :1], 8.0 * records[:, 0, 0, 1:] - 4.0
        return 0.5 * a * (self.x - b) ** 2


def as_it_is(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs[:, 0]


class WatchedApp(CohortApp):
    """Notes what each client remembers."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.memories: dict[int, dict[str, Tensor]] = {}

    def run_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        replies = super().run_cohort(messages, contexts)
        for context in contexts:
            if MEMORY in context.state:
                found = tensors(context.state[MEMORY])  # type: ignore[arg-type]
                self.memories[int(context.node_config["partition-id"])] = found
        return replies


FIVE = ClientConfig(mode="eval", batch_size=0, local_steps=5, learning_rate=0.1)


class Federation:
    """One of each quadratic, `copies` records of it per client."""

    def __init__(
        self,
        rule: LocalRule,
        config: ClientConfig = FIVE,
        *,
        clients: Sequence[int] = (0, 1, 2),
        copies: Sequence[int] = (1, 1, 1),
        cohort: int | None = None,
        stacked: bool = True,
        epochs: Sequence[int] | None = None,
        executor: Executor | None = None,
        start: float = 0.0,
    ) -> None:
        scaled = [[CURVATURES[i] / 8.0, (CENTRES[i] + 4.0) / 8.0] for i in clients]
        x = np.repeat(np.array(scaled, np.float32), copies[: len(clients)], axis=0)[:, None, None]
        data = Dataset("quadratics", x, np.zeros(len(x), np.int64), 1, "these tests", synthetic=True)
        ends = np.cumsum(copies[: len(clients)])
        owners = np.split(np.arange(len(x)), ends[:-1])
        self.app = WatchedApp(
            Task(data, data, Point, loss=as_it_is), owners, rule, config, seed=1, stacked=stacked
        )
        self.grid = SimulationGrid(self.app, len(clients), executor, chunk=len(clients))
        work: Callable[..., dict[int, int]] | None = None
        if epochs is not None:
            work = lambda cohort, round: {node: epochs[i] for i, node in enumerate(cohort)}  # noqa: E731
        self.strategy = Composition(
            Learner(as_aggregator(weighted_mean), SGD(), ["x"], 3, server=rule.server, config=config),
            Synchronous(cohort or len(clients), seed=3),
            stragglers=work,  # type: ignore[arg-type]
        )
        self.arrays = array_record({"x": torch.full((1,), start, dtype=torch.float64)})
        self.round = 0

    def path(self, number: int) -> list[float]:
        """x after each of the next rounds."""
        found = []
        for one in rounds(
            self.strategy, self.grid, self.arrays, first=self.round + 1, last=self.round + number
        ):
            assert one.updated, self.strategy.why_skipped
            self.arrays, self.round = one.arrays, one.number
            found.append(float(tensors(one.arrays)["x"]))
        return found

    def after(self, number: int) -> float:
        """x after the next `number` rounds."""
        return self.path(number)[-1]

    def server(self, slot: str) -> float:
        """What the rule's server remembers."""
        assert self.strategy.learner.server_state is not None
        return float(self.strategy.learner.server_state[slot])

    def memory(self, slot: str) -> list[float]:
        """What each client remembers, 0 before its first round."""
        memories = self.app.memories
        count = len(self.app.owners)
        return [float(memories[i][f"{slot}/x"]) if i in memories else 0.0 for i in range(count)]


def configured(**changes: object) -> ClientConfig:
    """Five full steps at 0.1, but for ..."""
    return replace(FIVE, **changes)  # type: ignore[arg-type]


def fixed(works: Sequence[float]) -> float:
    """Σ w b / Σ w."""
    return float(np.dot(works, CENTRES) / np.sum(works))


def reach(rate: float, steps: int = 5) -> list[float]:
    """W_i = 1 − (1 − η a_i)ᴷ, the share of its way to b_i that a client goes in a round."""
    return [1.0 - (1.0 - rate * a) ** steps for a in CURVATURES]
