"""The ledger: each noisy step as it really happened, client by client.

A `Journal` is a ledger on disk. A round's events are flushed to it before anything that rests on them
leaves the server, so that no crash loses privacy that was spent. A resumed run replays the rounds
since its last checkpoint with the same noise, bit for bit: that releases nothing new, so an event
that the journal holds already counts once. Noise from the operating system does not repeat: with it
each start of a run is another attempt, whose rounds are all charged, those that were run before too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
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
        attempt: how often a run whose noise does not repeat had been interrupted before.
        amiss: what about the step is not as it was planned; empty if nothing is.
    """

    client: int
    round: int
    noise_multiplier: float
    sample_rate: float
    steps: int
    repeat: int = 0
    place: Literal["client", "server"] = "client"
    attempt: int = 0
    amiss: str = ""


Span = tuple[int, int]
"""First and last round."""


@dataclass
class Ledger:
    """All events of one trained cell; a client without an event spent nothing.

    Attributes:
        turned_away: clients of which an update was not counted because of what it held.
        secure: whether the noise came from the operating system.
        known: what `attempts` says of the ledger that this one is a part of.
    """

    events: list[Event] = field(default_factory=list)
    turned_away: set[int] = field(default_factory=set)
    secure: bool = False
    known: dict[int, Span] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        self.events.append(event)

    def turn_away(self, client: int) -> None:
        """Note that an update of this client was not counted because of what it held."""
        self.turned_away.add(client)

    def only(self, place: str) -> Ledger:
        """The events of noise that was added there."""
        return self._part(self.known, lambda event: event.place == place)

    def of(self, client: int) -> Ledger:
        """The events of one client, in a run that had all rounds."""
        return self._part(self.attempts(), lambda event: event.client == client)

    def until(self, round: int) -> Ledger:
        """What had been spent when the last attempt that came so far was through with this round."""
        begun = {number: span for number, span in self.attempts().items() if span[0] <= round}
        last = max(begun, default=-1)
        if begun:
            begun[last] = begun[last][0], min(begun[last][1], round)
        return self._part(
            begun, lambda event: event.attempt < last or (event.attempt == last and event.round <= round)
        )

    def _part(self, known: dict[int, Span], wanted: Callable[[Event], bool]) -> Ledger:
        return Ledger(list(filter(wanted, self.events)), set(self.turned_away), self.secure, dict(known))

    def attempts(self) -> dict[int, Span]:
        """The first and the last round of each attempt that spent something; one unless noise is secure.

        Rounds are counted from 1, so the first attempt began with it, whoever took part.
        """
        return dict(self.known) if self.known else spanned({}, self.events)

    def amiss(self) -> dict[str, list[int]]:
        """What was not as planned, and of which clients, both in order."""
        found: dict[str, set[int]] = {}
        for event in self.events:
            if event.amiss:
                found.setdefault(event.amiss, set()).add(event.client)
        return {what: sorted(clients) for what, clients in sorted(found.items())}

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


def spanned(before: Mapping[int, Span], events: Iterable[Event]) -> dict[int, Span]:
    """The first and the last round of each attempt, of these events and of what was before."""
    spans = dict(before)
    for event in events:
        first, last = spans.get(event.attempt, (event.round if event.attempt else 1, event.round))
        spans[event.attempt] = min(first, event.round), max(last, event.round)
    return dict(sorted(spans.items()))


class Journal(Ledger):
    """A ledger with a file, one event per line, that starts with what the file holds already.

    Args:
        secure: whether noise comes from the operating system. What the file holds is then another
            attempt's, and nothing that is added now is known from there.

    Raises:
        DataError: a line of the file is damaged; what was spent is then not known.
        BackendError: the disk refuses.
    """

    def __init__(self, path: Path, *, secure: bool = False) -> None:
        files.drop_half_line(path)
        events, turned_away = _read(path)
        super().__init__(events, turned_away, secure)
        self.path = path
        self.attempt = 1 + max((event.attempt for event in events), default=-1) if secure else 0
        self._known = set(self.events)
        self._noise: dict[Event, float] = {}
        self._index(self.events)
        self._new: list[str] = []

    def dated(self, event: Event) -> Event:
        """The event as one of this attempt."""
        return replace(event, attempt=self.attempt)

    def holds(self, event: Event) -> bool:
        """Whether it is noted already, with that much noise or more: the same client, round and attempt."""
        return self._noise.get(noiseless(self.dated(event)), -1.0) >= event.noise_multiplier

    def add(self, event: Event) -> None:
        """Note an event, unless it is known from a replay."""
        event = self.dated(event)
        if event not in self._known:
            self._known.add(event)
            self._index([event])
            self._new.append(json.dumps(asdict(event)))
            super().add(event)

    def turn_away(self, client: int) -> None:
        if client not in self.turned_away:
            self._new.append(json.dumps({TURNED_AWAY: client}))
            super().turn_away(client)

    def flush(self) -> None:
        """Put what was noted on the disk; to be called before the round's model is used.

        Raises:
            BackendError: the disk refuses; the model must then not be released.
        """
        if self._new:
            files.append(self.path, self._new, durable=True)
            self._new = []

    def _index(self, events: Iterable[Event]) -> None:
        for event in events:
            key = noiseless(event)
            self._noise[key] = max(self._noise.get(key, 0.0), event.noise_multiplier)


def noiseless(event: Event) -> Event:
    """The event but for how strong its noise was."""
    return replace(event, noise_multiplier=0.0)


TURNED_AWAY = "turned_away"
"""Key of a journal's line that is no event."""


def _read(path: Path) -> tuple[list[Event], set[int]]:
    events, turned_away = [], set()
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        for line in lines:
            entry = json.loads(line)
            if entry.keys() == {TURNED_AWAY}:
                turned_away.add(int(entry[TURNED_AWAY]))
            else:
                events.append(Event(**entry))
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: line damaged ({error}); what this run has spent cannot be told any more. Restore the"
            " file from a copy, or run again"
        ) from error
    return events, turned_away
