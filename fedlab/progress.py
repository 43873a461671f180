"""How long work tells whoever watches it; the terminal and the event log both listen."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Listens to jobs. A job is named by its title ("train none", "attack linear-layer on dp-sgd")."""

    def start(self, job: str, total: int) -> None:
        """`job` begins and has `total` steps."""

    def advance(self, job: str, done: int, note: str = "") -> None:
        """`done` steps of `job` are finished; `note` is a short figure ("accuracy 0.91")."""

    def finish(self, job: str, note: str = "") -> None:
        """`job` has ended."""

    def message(self, text: str) -> None:
        """Something to read that belongs to no job."""


class Quiet:
    """Listens to nothing."""

    def start(self, job: str, total: int) -> None: ...

    def advance(self, job: str, done: int, note: str = "") -> None: ...

    def finish(self, job: str, note: str = "") -> None: ...

    def message(self, text: str) -> None: ...
