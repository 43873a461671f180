"""The evaluations of a cell in training: when, what they cost so far, and whether the target is met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlab.scenario.schema import Strategy
from fedlab.scenario.strategy import Target
from fedlab.snapshot import Snapshot


def met(target: Target | None, row: Mapping[str, Any]) -> bool:
    """Whether the figures of an evaluation are as good as that."""
    if target is None:
        return False
    if target.accuracy is not None:
        return bool(row["accuracy"] >= target.accuracy)
    return row["loss"] is not None and target.loss is not None and bool(row["loss"] <= target.loss)


def cost(row: Mapping[str, Any]) -> dict[str, Any]:
    """What had been spent by then, as far as a report needs it."""
    return {key: row.get(key) for key in ("round", "seconds", "uploads", "received", "sent")}


class Milestones:
    """What the model could do after which round, and what it had cost by then.

    Attributes:
        history: one row per evaluation.
        reached: the row of the first that met the target, as far as a report needs it; None if none did.
    """

    def __init__(self, settings: Strategy) -> None:
        self.settings = settings
        self.history: list[dict[str, Any]] = []
        self.reached: dict[str, Any] | None = None

    def due(self, round: int) -> bool:
        """Whether the model is tested after this round; after the last one it always is, by somebody else."""
        every = self.settings.evaluate_every
        return every is not None and round % every == 0 and round < self.settings.rounds

    def add(self, row: dict[str, Any]) -> None:
        """An evaluation: `round`, `accuracy`, `loss`, and what it cost; once per round."""
        if self.history and self.history[-1]["round"] == row["round"]:
            return
        self.history.append(row)
        if self.reached is None and self._met(row):
            self.reached = cost(row)

    def _met(self, row: dict[str, Any]) -> bool:
        return met(self.settings.target, row)

    def over(self, now: float) -> str:
        """Why training ends here, at the virtual time `now`; empty if it goes on."""
        if self.reached is not None:
            return f"the target was met in round {self.reached['round']}"
        until = self.settings.until
        return f"{now:.6g} s of at most {until:.6g} have passed" if until is not None and now >= until else ""

    def snapshot(self) -> Snapshot:
        return Snapshot(values={"history": self.history, "reached": self.reached})

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where `snapshot` was taken."""
        self.history, self.reached = list(snapshot.values["history"]), snapshot.values["reached"]
