"""The ledger: each noisy step as it really happened, client by client.

A `Journal` is a ledger on disk. A round's events are flushed to it before anything that rests on them
leaves the server, so that no crash loses privacy that was spent. A resumed run replays the rounds
since its last checkpoint with the same noise, bit for bit: that releases nothing new, so an event
that the journal holds already counts once. (Noise from a secure random source does not repeat: with
it, replayed rounds must be charged again.)
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from fedlab import files
from fedlab.errors import DataError


@dataclass(frozen=True)
class Event:
    """One round's subsampled Gaussian steps on one client.

    `Ledger.steps` adds them up as independent steps. A mechanism whose noise is correlated over rounds (a
    tree) has an accountant of its own, which needs to know who took part when.

    Attributes:
        round: the round whose model the client was sent; of noise at the server, the round that it makes.
        noise_multiplier: σ, the noise's standard deviation over the clipping norm.
        sample_rate: q, the probability that a record takes part in a step (Poisson sampling).
        steps: how many such steps the client took in that round.
        repeat: how often the client had been sent the same model before, by an asynchronous server.
        place: who added the noise.
    """

    client: int
    round: int
    noise_multiplier: float
    sample_rate: float
    steps: int
    repeat: int = 0
    place: Literal["client", "server"] = "client"


@dataclass
class Ledger:
    """All events of one trained cell; a client without an event spent nothing.

    Attributes:
        turned_away: clients of which an update was not counted because of what it held.
    """

    events: list[Event] = field(default_factory=list)
    turned_away: set[int] = field(default_factory=set)

    def add(self, event: Event) -> None:
        self.events.append(event)

    def only(self, place: str) -> Ledger:
        """The events of noise that was added there."""
        return Ledger([event for event in self.events if event.place == place], set(self.turned_away))

    def clients(self) -> list[int]:
        """Clients with at least one event, in order."""
        return sorted({event.client for event in self.events})

    def steps(self) -> dict[int, Counter[tuple[float, float]]]:
        """Steps of each client by (noise multiplier, sample rate), over all rounds; clients in order."""
        totals: dict[int, Counter[tuple[float, float]]] = {client: Counter() for client in self.clients()}
        for event in self.events:
            totals[event.client][event.noise_multiplier, event.sample_rate] += event.steps
        return totals

    def participations(self) -> dict[int, int]:
        """In how many rounds each client took noisy steps; clients in order."""
        rounds = {(event.client, event.round) for event in self.events}
        return dict(sorted(Counter(client for client, _ in rounds).items()))


class Journal(Ledger):
    """A ledger with a file, one event per line, that starts with what the file holds already.

    Raises:
        DataError: a line of the file is damaged; what was spent is then not known.
        BackendError: the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        files.drop_half_line(path)
        super().__init__(_read(path))
        self.path = path
        self._known = set(self.events)
        self._new: list[Event] = []

    def add(self, event: Event) -> None:
        """Note an event, unless it is known: the same client, round and noise, from a replay."""
        if event not in self._known:
            self._known.add(event)
            self._new.append(event)
            super().add(event)

    def flush(self) -> None:
        """Put what was noted on the disk; to be called before the round's model is used.

        Raises:
            BackendError: the disk refuses; the model must then not be released.
        """
        if self._new:
            files.append(self.path, [json.dumps(asdict(event)) for event in self._new], durable=True)
            self._new = []


def _read(path: Path) -> list[Event]:
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        return [Event(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path}: line damaged ({error}); what this run has spent cannot be told any more. Restore the"
            " file from a copy, or run again"
        ) from error
