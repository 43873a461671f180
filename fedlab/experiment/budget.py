"""The privacy budget: nobody is asked for what would cost more than there is.

What a round is going to cost a client is known before: its own noisy steps by its rule and by what it is told
to do, noise at the server by the defense's `charge`. Both go into a ledger behind what the client has spent,
and the defense says what ε that comes to. A synchronous round is weighed when its clients are asked, so that
nobody trains in vain. An asynchronous server knows whose updates make a model when it makes one, so noise at
the server is weighed then.

How strong the noise will be may depend on who answers. A client is weighed with the least that there may be:
that of a sum in which nobody else is sure to be. What clients have released by the time that the server
combines it is noted first, and looked at then.

Weighing takes an accountant seconds, so it is done in advance: if all the rounds that are left fit, or so
many of them, then the client is not weighed again before they are over. ε only grows with rounds, so this
changes nothing but the time that it takes.

An ε for which an assumption fails counts here as if it held: a budget is no proof.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedlab.audit import Defense
from fedlab.clients import Federation
from fedlab.errors import BudgetExhausted, Problem, ScenarioError
from fedlab.experiment.cells import Parts
from fedlab.experiment.planned import Plan
from fedlab.experiment.setup import Setup
from fedlab.privacy import Event, Ledger
from fedlab.privacy.ledger import Journal, Span, noiseless, spanned
from fedlab.runtime import client_of
from fedlab.runtime.wrapped import WrappedGrid
from fedlab.tasks.population import sizes

LOOKED_AT = 1000
"""Clients of whom it is looked up what a round costs them, before the first."""

ADD = 'add one that does, as in [[defenses]] name = "dp-sgd", or leave it out'

Kind = tuple[tuple[str, float, float, int], ...]
"""What steps are alike in whatever round they are taken."""


@dataclass(frozen=True)
class Exhausted:
    """Why training stopped.

    Attributes:
        limit: ε that nobody may exceed, at `delta`.
        client: who would have.
        spent: its ε so far.
        round: the round that was not run.
        next: its ε if it had been.
    """

    limit: float
    delta: float
    client: int
    spent: float
    round: int
    next: float

    def __str__(self) -> str:
        if self.spent > self.limit:
            return (
                f"the privacy budget is overspent: what clients sent in round {self.round} had less noise"
                f" than they were asked for, client {self.client} stands at ε = {_up(self.spent)} (δ ="
                f" {self.delta:g}), and privacy.budget is {self.limit:g}"
            )
        return (
            f"the privacy budget is spent: client {self.client} stands at ε = {_up(self.spent)} (δ ="
            f" {self.delta:g}), round {self.round} would bring it to {_up(self.next)}, and privacy.budget is"
            f" {self.limit:g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, where an infinite ε is null."""
        return {
            key: None if isinstance(value, float) and math.isinf(value) else value
            for key, value in asdict(self).items()
        }


class Overspent(BudgetExhausted):
    """Raised in place of asking for what would exceed the budget."""

    def __init__(self, why: Exhausted) -> None:
        super().__init__(str(why))
        self.why = why


class Budget:
    """Weighs what is about to be spent in one cell.

    Args:
        limit: ε that nobody may exceed.
        journal: what was spent.
        plan: what clients are going to add in noise.
        cohorts: whether whom a round asks are those whose updates it combines.
    """

    def __init__(
        self,
        limit: float,
        defense: Defense,
        journal: Journal,
        plan: Plan,
        federation: Federation,
        *,
        cohorts: bool = True,
    ) -> None:
        self.limit, self.defense, self.journal, self.cohorts = limit, defense, journal, cohorts
        self.plan, self.federation = plan, federation
        self._spent: dict[int, list[Event]] = {}
        self._spans: dict[int, Span] = {}
        self._asked: dict[Event, float] = {}  # noise of what was asked for last
        self._read = 0
        self._fits: dict[int, tuple[Kind, int, int]] = {}  # what, how often and until which round

    def asks(self, messages: Sequence[Message]) -> None:
        """Look whether these may be sent.

        Raises:
            Overspent: a client would exceed the budget.
        """
        asked = [one for one in messages if one.metadata.message_type.partition(".")[0] == "train"]
        rounds = {id(one): int(str(one.content.config_records["config"]["server-round"])) for one in asked}
        planned = [self.plan.of(one, rounds[id(one)]) for one in asked]
        events = [event for event in planned if event is not None]
        if self.cohorts and asked:
            clients = sorted({client_of(one.metadata.dst_node_id) for one in asked})
            number = max(rounds.values())
            for client in clients:  # alone: with the least noise that there may be
                events += self.defense.charge([client], number, self.federation)
        self.weigh(events)
        self._asked = {noiseless(event): event.noise_multiplier for event in events}

    def weigh(self, events: Iterable[Event]) -> None:
        """Look whether these may happen.

        Raises:
            Overspent: a client would exceed the budget.
        """
        self._catch_up()
        wanted: dict[int, list[Event]] = {}
        for event in events:
            if not self.journal.holds(event):
                wanted.setdefault(event.client, []).append(self.journal.dated(event))
        refused = [
            found for client, mine in wanted.items() if (found := self._refusal(client, mine)) is not None
        ]
        if refused:
            raise Overspent(max(refused, key=lambda one: one.next))

    def released(self, events: Iterable[Event]) -> None:
        """Look whether these, which have happened and are in the journal, were within the budget. What was
        asked for with no more noise is known to be.

        Raises:
            Overspent: a client has exceeded the budget.
        """
        self._catch_up()
        over = []
        for event in events:
            if event.noise_multiplier < self._asked.get(noiseless(event), math.inf):
                spent, delta = self.epsilon(event.client)
                if not spent <= self.limit:
                    over.append(Exhausted(self.limit, delta, event.client, spent, event.round, spent))
        if over:
            raise Overspent(max(over, key=lambda one: one.spent))

    def epsilon(self, client: int, ahead: Sequence[Event] = ()) -> tuple[float, float]:
        """(ε, δ) of what a client has spent, and these events; of several units the largest."""
        ledger = Ledger(
            [*self._spent.get(client, []), *ahead],
            secure=self.journal.secure,
            known=spanned(self._spans, ahead),
        )
        found = self.defense.guarantee(ledger) if ledger.events else None
        if found is None:
            return 0.0, math.nan
        worst = max((found, *found.beside), key=lambda one: one.worst)
        return worst.worst, worst.delta

    def _refusal(self, client: int, events: Sequence[Event]) -> Exhausted | None:
        round, kind = max(event.round for event in events), _kind(events)
        known, times, until = self._fits.get(client, (kind, 0, 0))
        if known == kind and times > 0 and round <= until:
            self._fits[client] = kind, times - 1, until
            return None
        fits = self._most(client, events, max(1, self.federation.rounds - round + 1))
        if fits:
            self._fits[client] = kind, fits - 1, round + fits - 1
            return None
        ahead, delta = self.epsilon(client, events)
        return Exhausted(self.limit, delta, client, self.epsilon(client)[0], round, ahead)

    def _most(self, client: int, events: Sequence[Event], left: int) -> int:
        """The most rounds with such events, from theirs on, that fit; at most those that are left."""

        def fit(rounds: int) -> bool:
            ahead = [replace(one, round=one.round + later) for later in range(rounds) for one in events]
            return self.epsilon(client, ahead)[0] <= self.limit

        if fit(left):
            return left
        low, high = 0, left
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fit(middle) else (low, middle)
        return low

    def _catch_up(self) -> None:
        """Read what the journal got since the last look; a client with surprises is weighed again."""
        new, self._read = self.journal.events[self._read :], len(self.journal.events)
        self._spans = spanned(self._spans, new)
        for event in new:
            self._spent.setdefault(event.client, []).append(event)
            if event.amiss:
                self._fits.pop(event.client, None)


class BudgetedGrid(WrappedGrid):
    """Lets nobody be asked for what would exceed the budget."""

    def __init__(self, grid: Grid, budget: Budget) -> None:
        super().__init__(grid)
        self.budget = budget

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        outgoing = list(messages)
        self.budget.asks(outgoing)
        return super().push_messages(outgoing)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None, enough: int | None = None
    ) -> list[Message]:
        outgoing = list(messages)
        self.budget.asks(outgoing)
        return super().send_and_receive(outgoing, timeout=timeout, enough=enough)


def spends(defense: Defense) -> bool:
    """Whether a defense, or one of a stack, adds noise that a ledger accounts for."""
    return bool(defense.spends) or any(spends(one) for one in getattr(defense, "layers", ()))


def check(setup: Setup) -> None:
    """Refuse a budget that nothing is spent against, or that the first round would exceed.

    Raises:
        ScenarioError: it is one.
    """
    limit = setup.scenario.privacy.budget
    if limit is None:
        return
    private = {name for name, one in setup.defenses.items() if spends(one)}
    firsts = {(one.strategy, one.defense): one for one in reversed(setup.cells) if one.defense in private}
    found = [] if private else [f"got {limit:g}, but no defense adds noise that costs any; {ADD}"]
    for cell in firsts.values():
        epsilon, delta = _first(setup.parts(cell), setup.defenses[cell.defense])
        if not epsilon <= limit:
            found.append(
                f"got {limit:g}; the first round with {cell.trained} may cost a client ε = {_up(epsilon)}"
                f" (δ = {delta:g}) by itself; expected at least that, or more noise, or fewer steps a round"
            )
    if found:
        raise ScenarioError(setup.scenario.name, [Problem("privacy.budget", text) for text in found])


def _first(parts: Parts, defense: Defense) -> tuple[float, float]:
    """(ε, δ) of the client whom the first round costs most, among the first of a large population."""
    records = sizes(parts.owners)
    kinds = {records[client]: client for client in reversed(range(min(len(records), LOOKED_AT)))}
    plan, worst = Plan(parts.rule, parts.config, records), (0.0, 0.0)
    for client in kinds.values():
        own = plan.event(client, 1)
        events = [*([own] if own is not None else []), *defense.charge([client], 1, parts.federation)]
        found = defense.guarantee(Ledger(events)) if events else None
        if found is not None:
            worst = max([worst, *((one.worst, one.delta) for one in (found, *found.beside))])
    return worst


def _kind(events: Sequence[Event]) -> Kind:
    return tuple(sorted((one.place, one.noise_multiplier, one.sample_rate, one.steps) for one in events))


def _up(epsilon: float) -> str:
    """To four decimals, never smaller than it is."""
    return f"{math.ceil(epsilon * 1e4) / 1e4:g}" if math.isfinite(epsilon) else "infinite"
