"""What ε a defense is going to spend, by its own accountant, before anything is trained.

The ledger is written in advance: who is asked in each round is a function of the seed, what a client's steps
spend of its rule, and what noise at the server spends of the defense's `charge`. It is what the run would
write if everybody who is asked answers, and does what it was told. Then the defense says what that comes to.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedlab.audit import Defense
from fedlab.experiment.budget import spends
from fedlab.experiment.cells import Cell, Parts
from fedlab.experiment.planned import Plan
from fedlab.experiment.setup import Setup
from fedlab.privacy import Event, Ledger
from fedlab.strategies.schedules import Synchronous
from fedlab.tasks.population import sizes

MOST_ASKED = 10**6
"""Clients, over all rounds, up to which it is looked up who is asked when."""

WEIGHED = 3
"""Clients whose ε is computed: those whom it costs most, by a rough measure."""

LISTED = 1000
"""Clients among whom those are looked for where it is not known who is asked."""


@dataclass(frozen=True)
class Spending:
    """What one strategy with one defense spends, of its first mode and seed.

    Attributes:
        epsilon: the largest over clients; None where an assumption fails, which `reason` names.
        client, rounds: whose it is, and in how many rounds it takes part.
        exact: whether it is known who is asked when; if not, every client is counted in every round.
        beside: what else is proved of the same training, for another unit: ε by unit.
    """

    defense: str
    strategy: str
    epsilon: float | None
    delta: float
    unit: str
    accountant: str
    client: int | None
    rounds: int
    exact: bool
    reason: str | None = None
    beside: tuple[tuple[str, float | None], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, where an infinite ε is null."""
        return {
            **self.__dict__,
            "epsilon": _finite(self.epsilon),
            "beside": [{"unit": unit, "epsilon": _finite(epsilon)} for unit, epsilon in self.beside],
        }


def spending(setup: Setup) -> list[Spending]:
    """One entry per strategy and defense that adds noise for which a ledger accounts."""
    firsts = {(one.strategy, one.defense): one for one in reversed(setup.cells)}
    found = []
    for cell in sorted(firsts.values(), key=setup.cells.index):
        defense = setup.defenses[cell.defense]
        if spends(defense) and not setup.several:
            told = _spent(setup.parts(cell), defense, setup.under(cell).strategy.rounds, cell)
            found += [told] if told is not None else []
    return found


def _spent(parts: Parts, defense: Defense, rounds: int, cell: Cell) -> Spending | None:
    asked = _asked(parts, rounds)
    ledger = _ledger(parts, defense, rounds, asked)
    found = defense.guarantee(ledger) if ledger.events else None
    if found is None:
        return None
    client = max(found.per_client, key=lambda one: found.per_client[one], default=None)
    return Spending(
        cell.defense,
        cell.strategy,
        found.epsilon,
        found.delta,
        found.unit,
        found.accountant,
        client,
        0 if client is None else found.participations.get(client, 0),
        asked is not None,
        found.reason,
        tuple((one.unit, one.epsilon) for one in found.beside),
    )


def _asked(parts: Parts, rounds: int) -> list[Sequence[int]] | None:
    """Whom each round asks; None where that depends on more than the seed, or is too long a list."""
    schedule = getattr(parts.strategy, "schedule", None)
    everybody = range(len(parts.owners))
    if not isinstance(schedule, Synchronous) or rounds * schedule.size(len(everybody)) > MOST_ASKED:
        return None
    return [schedule.sample(everybody, number) for number in range(1, rounds + 1)]


def _ledger(parts: Parts, defense: Defense, rounds: int, asked: list[Sequence[int]] | None) -> Ledger:
    """The events of the clients whom it costs most."""
    plan = Plan(parts.rule, parts.config, sizes(parts.owners))
    if asked is None:
        times = Counter(dict.fromkeys(range(min(len(parts.owners), LISTED)), rounds))
    else:
        times = Counter(client for cohort in asked for client in cohort)
    costs = {client: count * _cost(plan.event(client, 1)) for client, count in times.items()}
    chosen = sorted(costs, key=lambda client: (-costs[client], client))[:WEIGHED]
    ledger = Ledger(secure=parts.federation.secure, known={0: (1, rounds)})
    for number in range(1, rounds + 1):
        cohort = chosen if asked is None else asked[number - 1]
        mine = [client for client in chosen if client in set(cohort)]
        own = [plan.event(client, number) for client in mine]
        made = defense.charge(cohort if asked is not None else mine[:1], number, parts.federation)
        if asked is None:  # weighed alone: with the least noise that there may be
            made = [e for client in mine for e in defense.charge([client], number, parts.federation)]
        ledger.events += [event for event in own if event is not None]
        ledger.events += [event for event in made if event.client in mine]
    return ledger


def _cost(event: Event | None) -> float:
    """To leading order what a round's noisy steps cost: steps · q² / σ²; alike for all without own noise."""
    if event is None:
        return 1.0
    if event.noise_multiplier <= 0.0:
        return math.inf
    return float(event.steps * (event.sample_rate / event.noise_multiplier) ** 2)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
