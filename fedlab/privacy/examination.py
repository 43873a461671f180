"""What a guarantee comes with when the training is over: a second opinion, its course, and what was amiss.

A defense says what its mechanism spent by the ledger. Here that is held against what the ledger knows to have
been otherwise than planned, against another library, and told round by round, all for the one client that is
exposed most.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from fedlab.privacy.guarantee import Assumption, Guarantee
from fedlab.privacy.ledger import Ledger
from fedlab.privacy.second_opinion import TOLERANCE, agrees, curve, opinions

POINTS = 20
"""Rounds of the course that are told."""

AGREEMENT = (
    "two independent accountants agree: dp-accounting's RDP is Opacus', and ε lies between PLD and RDP"
    f" (to {TOLERANCE[0]:g} and {100 * TOLERANCE[1]:g} %)"
)

Prove = Callable[[Ledger], Guarantee | None]
"""A defense's `guarantee`."""


def examined(prove: Prove, ledger: Ledger, place: str = "") -> Guarantee | None:
    """What `prove` says of the ledger, with all that can be added to it.

    Args:
        place: where a defense adds its noise whose guarantee does not say so itself.
    """
    whole = prove(ledger)
    if whole is None:
        return None
    beside = tuple(_examined(one, prove, ledger, place) for one in whole.beside)
    return replace(_examined(whole, prove, ledger, place), beside=beside)


def _examined(one: Guarantee, prove: Prove, ledger: Ledger, place: str) -> Guarantee:
    where = one.place or place
    mine = ledger.only(where) if where else ledger
    kept = [
        Assumption(f"every step ran as planned ({what}, of {len(clients)} clients)", False)
        for what, clients in mine.amiss().items()
        if not any(what in said.text for said in one.assumptions)  # unless the defense says so itself
    ]
    if not one.per_client:
        return replace(one, assumptions=(*one.assumptions, *kept))
    worst = max(one.per_client, key=lambda client: (one.per_client[client], -client))
    spent, attempts = one.per_client[worst], mine.attempts()
    if one.history and math.isfinite(spent):
        kept.append(Assumption(AGREEMENT, agrees(spent, one.history, one.delta)))
    rounds = max((last for _, last in attempts.values()), default=0)
    alone = mine.of(worst)

    def after(round: int) -> float:
        found = _same(one, prove(alone.until(round)))
        return found.worst if found is not None else 0.0

    return replace(
        one,
        assumptions=(*one.assumptions, *kept),
        most_exposed=worst,
        cross_check=opinions(one.history, one.delta) if one.history and math.isfinite(spent) else (),
        curve=curve(one.history, one.delta) if one.history and math.isfinite(spent) else (),
        course=tuple((round, after(round)) for round in told(rounds)),
        rounds=rounds,
        attempts=max(attempts, default=0) + 1,
    )


def told(rounds: int) -> list[int]:
    """About `POINTS` of the rounds 1 to `rounds`, evenly spread, the last among them."""
    step = max(1, math.ceil(rounds / POINTS))
    return list(range(rounds, 0, -step))[::-1]


def _same(one: Guarantee, found: Guarantee | None) -> Guarantee | None:
    """Of what is said of another ledger that which is about the same mechanism and unit."""
    if found is None:
        return None
    name = one.mechanism.partition(":")[0]
    every = (found, *found.beside)
    return next((g for g in every if (g.unit, g.mechanism.partition(":")[0]) == (one.unit, name)), None)
