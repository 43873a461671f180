"""How long work tells whoever watches it; the terminal and the event log both listen."""

from __future__ import annotations

from collections.abc import Sequence
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


class SideBySide:
    """Tells of jobs that workers run, by index: they begin when workers say so, and end in any order."""

    def __init__(self, progress: Progress, titles: Sequence[str]) -> None:
        self._progress, self._titles = progress, titles
        self._started: set[int] = set()
        self._finished: set[int] = set()

    def tick(self, index: int, done: int, total: int) -> None:
        """A worker has done so many of the steps of a job."""
        if index in self._finished:  # news from a worker may come after its answer
            return
        if index not in self._started:
            self._started.add(index)
            self._progress.start(self._titles[index], total)
        self._progress.advance(self._titles[index], done)

    def finish(self, index: int, note: str = "") -> None:
        """The answer of a job is there."""
        self._finished.add(index)
        if index not in self._started:
            self._progress.start(self._titles[index], 1)
        self._progress.finish(self._titles[index], note)
