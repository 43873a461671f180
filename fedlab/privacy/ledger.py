"""The ledger: each noisy step as it really happened, client by client."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """One round's subsampled Gaussian steps on one client.

    Attributes:
        noise_multiplier: σ, the noise's standard deviation over the clipping norm.
        sample_rate: q, the probability that a record takes part in a step (Poisson sampling).
        steps: how many such steps the client took in that round.
    """

    client: int
    round: int
    noise_multiplier: float
    sample_rate: float
    steps: int


@dataclass
class Ledger:
    """All events of one trained cell; a client without an event spent nothing."""

    events: list[Event] = field(default_factory=list)

    def add(self, event: Event) -> None:
        self.events.append(event)

    def clients(self) -> list[int]:
        """Clients with at least one event, in order."""
        return sorted({event.client for event in self.events})

    def steps(self, client: int) -> Counter[tuple[float, float]]:
        """Steps of one client by (noise multiplier, sample rate), over all rounds."""
        totals: Counter[tuple[float, float]] = Counter()
        for event in self.events:
            if event.client == client:
                totals[event.noise_multiplier, event.sample_rate] += event.steps
        return totals
