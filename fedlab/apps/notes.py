"""What is found out about an app, written down fact by fact."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedlab.apps.pixels import Surety


@dataclass(frozen=True)
class Fact:
    """One thing that is known of an app.

    Attributes:
        name, value: in words; source: where it is from.
        sure: "checked" (something else agrees with it), "recorded" (seen in clients), "stated" (by the app's
            author), or "assumed".
    """

    name: str
    value: str
    source: str
    sure: Surety


@dataclass
class Notes:
    """What is written down while an app is read: facts, obstacles to attacking it, doubts about scores."""

    facts: list[Fact] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def add(self, name: str, value: object, source: str, sure: Surety) -> None:
        self.facts.append(Fact(name, str(value), source, sure))
