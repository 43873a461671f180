"""What can be proved about one trained cell, and under which assumptions."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Assumption:
    """Something that the proof needs, and whether this run kept it."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Guarantee:
    """(ε, δ)-differential privacy, or the reason why there is none.

    Attributes:
        epsilon: maximum over participating clients; None if an assumption failed.
        per_client: ε of each client that took part.
        participations: rounds in which each client took part.
        noise: where the noise came from.
        beside: what else holds of the same training, about other units; never to be added up.
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

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, where an infinite ε is null."""
        spent = {c: e if math.isfinite(e) else None for c, e in self.per_client.items()}
        return asdict(self) | {"per_client": spent, "beside": [one.to_dict() for one in self.beside]}
