"""A cohort in training: where its clients stand, and what they come to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fedlab.clients.rules import Carry
from fedlab.tasks import State


@dataclass(frozen=True)
class ClientResult:
    """What one client comes to: its state, its memory, what else it sends, its mean training loss."""

    state: State
    memory: State
    uplink: State
    loss: float
    steps: int


@dataclass(frozen=True)
class CohortResult:
    """The same of a whole cohort: tensors are (clients, ...), on the CPU."""

    state: State
    memory: State
    uplink: State
    losses: list[float]
    steps: list[int]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, client: int) -> ClientResult:
        """One client's part, as views."""
        return ClientResult(
            {name: value[client] for name, value in self.state.items()},
            {name: value[client] for name, value in self.memory.items()},
            {name: value[client] for name, value in self.uplink.items()},
            self.losses[client],
            self.steps[client],
        )

    def __iter__(self) -> Iterator[ClientResult]:
        return (self[client] for client in range(len(self)))

    def first(self, count: int) -> CohortResult:
        """The first clients alone."""
        return CohortResult(
            {name: value[:count] for name, value in self.state.items()},
            {name: value[:count] for name, value in self.memory.items()},
            {name: value[:count] for name, value in self.uplink.items()},
            self.losses[:count],
            self.steps[:count],
        )


@dataclass
class Standing:
    """The clients that are still training, and where they stand; tensors are (clients, ...)."""

    clients: list[int]
    parameters: State
    buffers: State
    velocity: State
    carry: Carry

    def only(self, rows: Sequence[int]) -> Standing:
        """Some of the clients."""
        picked = torch.tensor(rows)
        parts = (self.parameters, self.buffers, self.velocity, self.carry)
        return Standing(
            [self.clients[i] for i in rows], *({n: v[picked] for n, v in one.items()} for one in parts)
        )


def joined(stacks: Sequence[Standing]) -> tuple[State, State, Carry]:
    """Parameters, buffers and carry of all clients, in their order."""
    if len(stacks) == 1:
        return stacks[0].parameters, stacks[0].buffers, stacks[0].carry
    order = torch.tensor([client for one in stacks for client in one.clients]).argsort()

    def join(states: Sequence[State]) -> State:
        return {name: torch.cat([state[name] for state in states])[order] for name in states[0]}

    return (
        join([one.parameters for one in stacks]),
        join([one.buffers for one in stacks]),
        join([one.carry for one in stacks]),
    )
