"""What happens while a cell trains, told to whoever looks on and kept in the run directory's events."""

from __future__ import annotations

import math
from typing import Any

from fedlab.errors import FedlabError
from fedlab.experiment.directory import RunDirectory
from fedlab.experiment.watch import Watcher
from fedlab.progress import Progress
from fedlab.runtime.flights import Outlook
from fedlab.runtime.tap import Missing

PATIENCE = 3
"""A run whose first so many rounds brought nothing but failures is given up."""

NAMED = 100
"""Clients that one event names at most."""

DIVERGING = ("norm", "not-finite")
"""Kinds of rejection that mean that training diverges, rather than that a client is broken."""

TOLD = 5
"""Times that people are told that a round waits for devices to come back; events know all."""


class Diary:
    """One cell's.

    Attributes:
        waited: why the latest round had to wait for devices that were away; empty if it did not.
    """

    def __init__(self, directory: RunDirectory, progress: Progress, cell: str) -> None:
        self.directory, self.progress, self.cell = directory, progress, cell
        self.title = f"train {cell}"
        self.waited = ""
        self._waits = 0

    def event(self, what: str, **about: Any) -> None:
        """Into the run directory's events."""
        self.directory.event(what, cell=self.cell, **about)

    def failed(self, round: int, client: int, reason: str) -> None:
        self.event("client failed", round=round, client=client, reason=reason)

    def rejected(self, round: int, client: int, kind: str, reason: str) -> None:
        self.event("update rejected", round=round, client=client, kind=kind, reason=reason)

    def missed(self, round: int, why: Missing, clients: list[int]) -> None:
        self.event(f"clients {why}", round=round, count=len(clients), clients=clients[:NAMED])

    def skipped(self, round: int, reason: str) -> None:
        self.event("skipped round", round=round, reason=reason)

    def idle(self, outlook: Outlook) -> None:
        """Nobody is there of those that are waited for: when it goes on."""
        self.waited = str(outlook)
        back = outlook.back if math.isfinite(outlook.back) else None
        self.event("nobody is there", now=outlook.now, back=back)
        self._waits += 1
        if self._waits <= TOLD:
            self.progress.message(f"{self.title}: {self.waited}")
        if self._waits == TOLD:
            self.progress.message(f"{self.title}: further waits stand in events.jsonl")

    def caution(self, what: str) -> None:
        self.event("caution", reason=what)
        self.progress.message(f"warning: {self.title}: {what}")

    def ended(self, round: int, reason: str) -> None:
        """Before all rounds were over: why."""
        self.event("ended early", round=round, reason=reason)
        self.progress.message(f"{self.title}: {reason}")

    def goes_on(self, round: int) -> None:
        self.event("goes on", round=round)
        self.progress.message(f"{self.title}: goes on after round {round}")

    def damaged(self, what: str) -> None:
        self.event("damaged checkpoint", reason=what)
        self.progress.message(f"warning: {self.title}: {what}; the one before it counts")

    def stopping(self) -> None:
        self.progress.message("stopping after this round; Ctrl-C again stops at once")

    def give_up_if_hopeless(self, watcher: Watcher, done: int, skipped: int, last: bool, skip: str) -> None:
        """A report on a model that never learned would mislead, and cost hours.

        Args:
            done, skipped: rounds so far, and how many of them made no model.
            last: whether there is no further one.
            skip: what the strategy says about the latest.

        Raises:
            FedlabError: it never will.
        """
        if skipped < done:
            return
        failures = watcher.failures
        rejections = [one for one in watcher.rejections if one[2] != "quorum"]  # nobody's fault
        if not (last or (done >= PATIENCE and (failures or rejections))):
            return
        late = sum(watcher.late.values())
        why = f"{late} of {watcher.asked} updates" if late else "too few replies"
        why += " came too late" if late else " came in time"
        why += f": {self.waited}" if self.waited else "; raise strategy.deadline, or lower strategy.quorum"
        if not late and not watcher.rejections:
            why = skip or why
        if rejections:
            _, client, kind, reason = rejections[0]
            why = f"client {client}'s update was turned away first ({kind}: {reason})"
            if kind in DIVERGING:
                why += ": training diverged; lower clients.learning_rate or clip"
        if failures:
            _, client, reason = failures[0]
            why = f"client {client} failed first, with: {reason.strip().splitlines()[-1]}"
        message = f"{self.title}: not one of the first {done} rounds had enough usable updates: {why}"
        if failures or watcher.rejections:
            message += "\nThe run directory's events.jsonl holds each reason in full"
        raise FedlabError(message)
