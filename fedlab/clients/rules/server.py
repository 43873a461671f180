"""The server's half of a local rule: what it remembers between rounds, and what it tells the clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from fedlab.clients.config import ClientConfig

ServerState = dict[str, Tensor]
"""What the server remembers for a rule: slots, (d,) float64 each."""


class Facts(NamedTuple):
    """What the server knows of the n clients whose updates it combines.

    population: number of all clients; weights: (n,) float64, sum to 1; steps: (n,) float64, steps that
    each took; config: how the clients were told to train.
    """

    population: int
    weights: Tensor
    steps: Tensor
    config: ClientConfig


class ServerSide:
    """The server's half of a rule; it does nothing for FedAvg, and others override what differs.

    Attributes:
        uniform: whether every client counts the same, however many records it holds.
        sends: slots of the state that clients are told with the model.
        uplinks: slots that clients send beside their update; they pass through the scenario's aggregator
            as updates do, so that a robust one protects them too.
        in_step: whether the clients' memories must hold the same rounds as the state here; a client whose
            update did not count (it was late, turned away, or the round failed) is then told to forget it.
    """

    uniform: bool = False
    in_step: bool = False
    sends: tuple[str, ...] = ()
    uplinks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What messages call it; a checkpoint of another name is refused."""
        return type(self).__name__

    def begin(self, parameters: Tensor) -> ServerState:
        """The state before the first round, for a model (d,)."""
        return {}

    def factors(self, facts: Facts) -> Tensor | None:
        """(n,) by which the clients' deltas are multiplied before they are aggregated; None for 1."""
        return None

    def end(
        self,
        before: Tensor,
        delta: Tensor,
        uplinks: Mapping[str, Tensor],
        state: ServerState,
        facts: Facts,
    ) -> tuple[Tensor, ServerState]:
        """(delta for the server optimizer, new state).

        Args:
            before: (d,) the model that the clients started from.
            delta: (d,) the aggregated update.
            uplinks: (d,) by slot, aggregated.
        """
        return delta, state


class Combined(ServerSide):
    """Several server's halves, one after the other, with slots of their own; one at most has factors."""

    def __init__(self, *parts: ServerSide) -> None:
        self.parts = parts
        self.uniform = any(part.uniform for part in parts)
        self.in_step = any(part.in_step for part in parts)
        self.sends = tuple(name for part in parts for name in part.sends)
        self.uplinks = tuple(name for part in parts for name in part.uplinks)

    @property
    def name(self) -> str:
        return " + ".join(part.name for part in self.parts)

    def begin(self, parameters: Tensor) -> ServerState:
        return {name: value for part in self.parts for name, value in part.begin(parameters).items()}

    def factors(self, facts: Facts) -> Tensor | None:
        found = (part.factors(facts) for part in self.parts)
        return next((factors for factors in found if factors is not None), None)

    def end(
        self, before: Tensor, delta: Tensor, uplinks: Mapping[str, Tensor], state: ServerState, facts: Facts
    ) -> tuple[Tensor, ServerState]:
        for part in self.parts:
            delta, state = part.end(before, delta, uplinks, state, facts)
        return delta, state


def average(work: Tensor, weights: Tensor) -> Tensor:
    """Σ p_i a_i of the clients' work a (n,); where all do the same, that work to the last bit."""
    return work[0] + weights @ (work - work[0])
