"""What can be proved about one trained cell, and under which assumptions.

`privacy/<cell>.json` in a run directory is a `Guarantee` as `to_dict` gives it, those beside it likewise.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fedlab.privacy.accountants import History
from fedlab.privacy.second_opinion import Opinion


@dataclass(frozen=True)
class Assumption:
    """Something that the proof needs, and whether this run kept it."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Guarantee:
    """(ε, δ)-differential privacy, or the reason why there is none.

    The defense gives what stands before `place`, and `history` where its ε is that of independent Gaussian
    steps; the rest is added when the training is over (`fedlab.privacy.examination`).

    Attributes:
        epsilon: maximum over participating clients; None if an assumption failed, whatever was given.
        per_client: ε of each client that took part; where an assumption failed, what it would have been.
        participations: rounds in which each client took part.
        noise: where the noise came from.
        reason: why there is no ε.
        beside: what else holds of the same training, about other units; never to be added up.
        place: where the noise was added.
        history: (noise multiplier, sample rate, steps) of all that the most exposed client spent; empty where
            the mechanism is no composition of Gaussian steps.
        cautions: what makes ε say little, though it holds.
        most_exposed: the client with the largest ε, the first of several.
        cross_check: ε of `history` at `delta` by each accountant of both libraries.
        curve: (δ, ε) of `history`, δ falling.
        course: (round, ε) of the most exposed client after about twenty of the rounds, the last too.
        rounds: how many rounds the ledger covers.
        attempts: how often it was begun with other noise; 1 unless that comes from the operating system.
    """

    mechanism: str
    epsilon: float | None
    delta: float
    unit: str
    adjacency: str
    accountant: str
    noise: str
    assumptions: tuple[Assumption, ...]
    per_client: dict[int, float] = field(default_factory=dict)
    participations: dict[int, int] = field(default_factory=dict)
    reason: str | None = None
    beside: tuple[Guarantee, ...] = ()
    place: Literal["", "client", "server"] = ""
    history: History = ()
    cautions: tuple[str, ...] = ()
    most_exposed: int | None = None
    cross_check: tuple[Opinion, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()
    course: tuple[tuple[int, float], ...] = ()
    rounds: int = 0
    attempts: int = 1

    def __post_init__(self) -> None:
        broken = [one.text for one in self.assumptions if not one.holds]
        if broken:
            object.__setattr__(self, "epsilon", None)
            if self.reason is None:
                told = "; ".join(broken)
                object.__setattr__(self, "reason", f"an assumption of the proof does not hold: {told}")

    @property
    def worst(self) -> float:
        """The largest ε of a client, whether or not all assumptions hold."""
        return max(self.per_client.values(), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, where an infinite ε is null."""
        return asdict(self) | {
            "per_client": {client: _finite(spent) for client, spent in self.per_client.items()},
            "cross_check": [asdict(one) | {"epsilon": _finite(one.epsilon)} for one in self.cross_check],
            "curve": [[delta, _finite(epsilon)] for delta, epsilon in self.curve],
            "course": [[round, _finite(epsilon)] for round, epsilon in self.course],
            "history": [list(one) for one in self.history],
            "beside": [one.to_dict() for one in self.beside],
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
