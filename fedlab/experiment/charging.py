"""What a cell's training spends of privacy: written down where it happens, and held against the budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flwr.serverapp import Grid

from fedlab.audit import Defense
from fedlab.clients import Federation
from fedlab.experiment.budget import Budget, BudgetedGrid, Exhausted, Overspent, spends
from fedlab.experiment.cells import Parts
from fedlab.experiment.planned import Plan
from fedlab.privacy import Event
from fedlab.privacy.ledger import Journal
from fedlab.runtime import client_of
from fedlab.strategies.rounds import OwnRounds, Round


class Charges:
    """The journal of one cell, and its budget if there is one.

    Attributes:
        exhausted: why no further round was afforded; None as long as there was no such round.
    """

    def __init__(
        self, defense: Defense, journal: Journal, federation: Federation, budget: Budget | None = None
    ) -> None:
        self.defense, self.journal, self.federation, self.budget = defense, journal, federation, budget
        self.exhausted: Exhausted | None = None

    def charge(self, nodes: Sequence[int], round: int) -> None:
        """Write down what combining these updates spends, before it is done.

        What clients noised has been seen when it comes here: it is written down whatever the budget says.
        Noise at the server is weighed first, for without a model of it nothing is spent.

        Raises:
            Overspent: a client has exceeded the budget, or would.
        """
        clients = [client_of(node) for node in nodes]
        events = self.defense.charge(clients, round, self.federation)
        sent = [event for event in events if event.place == "client"]
        made = [event for event in events if event.place == "server"]
        self._note(sent)
        if self.budget is not None:
            self.budget.released(sent)
            self.budget.weigh(made)
        self._note(made)

    def guarded(self, grid: Grid) -> Grid:
        """The Grid, on which nobody is asked for what would exceed the budget."""
        return grid if self.budget is None else BudgetedGrid(grid, self.budget)

    def affordable(self, rounds: Iterable[Round]) -> Iterator[Round]:
        """The rounds, until the budget forbids the next."""
        try:
            yield from rounds
        except Overspent as stop:
            self.exhausted = stop.why

    def _note(self, events: Sequence[Event]) -> None:
        for event in events:
            self.journal.add(event)
        self.journal.flush()


def charges(parts: Parts, defense: Defense, journal: Journal, plan: Plan, limit: float | None) -> Charges:
    """Of a cell made of these parts; `limit` is the ε of `[privacy] budget`, if there is one."""
    if limit is None or not spends(defense):
        return Charges(defense, journal, parts.federation)
    cohorts = not isinstance(parts.strategy, OwnRounds)
    budget = Budget(limit, defense, journal, plan, parts.federation, cohorts=cohorts)
    return Charges(defense, journal, parts.federation, budget)
