"""How a sweep looks while it works: a table on a terminal, plain lines in a log, or nothing.

As in `fedlab.terminal`, all of it goes to stderr, and plain lines carry no clock.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean
from typing import IO, Protocol

from rich.console import Console, Group
from rich.live import Live as Redrawn
from rich.table import Table
from rich.text import Text

from fedlab.terminal import duration, one_line, redraws

SPARE = 6
"""Lines of the terminal that the table leaves free."""
CLOCK, GAP = len("59:59 min"), 2
"""Columns of the terminal that a time takes, and that lie between two columns of the table."""
MARKS = {"finished": ("✓", "+", "green"), "failed": ("✗", "x", "red"), "interrupted": ("‖", "=", "yellow")}


class View(Protocol):
    """What the sweep tells of."""

    def begin(self, cells: Sequence[str], done: int) -> None:
        """These cells are to run; `done` were finished before."""

    def start(self, cell: str, said: Callable[[], str]) -> None:
        """A cell's process runs; `said` gives the last line that it has printed."""

    def end(self, cell: str, word: str, note: str) -> None:
        """A cell ended: `word` is its status, `note` what came of it."""

    def message(self, text: str) -> None:
        """A line to everybody."""

    def tick(self) -> None:
        """Time has passed."""


class Silent:
    """Nothing at all."""

    def begin(self, cells: Sequence[str], done: int) -> None: ...

    def start(self, cell: str, said: Callable[[], str]) -> None: ...

    def end(self, cell: str, word: str, note: str) -> None: ...

    def message(self, text: str) -> None: ...

    def tick(self) -> None: ...


class Lines:
    """One line when a cell starts, one when it ends."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr
        self.total, self.done = 0, 0

    def begin(self, cells: Sequence[str], done: int) -> None:
        self.total, self.done = len(cells) + done, done
        self.message(_beginning(len(cells), done))

    def start(self, cell: str, said: Callable[[], str]) -> None:
        self.message(f"{cell}: started")

    def end(self, cell: str, word: str, note: str) -> None:
        self.done += word == "finished"
        self.message(f"{cell}: {word}{f', {note}' if note else ''} ({self.done} of {self.total} finished)")

    def message(self, text: str) -> None:
        print(one_line(text, 2000), file=self.stream, flush=True)

    def tick(self) -> None: ...


@dataclass
class _Line:
    """A cell: of one that runs, `time` is when it began, and else how long it took."""

    word: str
    time: float
    note: Callable[[], str]


class Board:
    """A table of the cells that run and of those that ended last, as many as fit, and how much is left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.unicode = console.encoding.lower().startswith("utf")
        self.lines: dict[str, _Line] = {}
        self.total, self.before = 0, 0
        self.live = Redrawn(console=console, auto_refresh=False, transient=True)
        self.drawn = 0.0

    def __enter__(self) -> Board:
        self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()
        if self.lines:
            self.message(self._left().plain)

    def begin(self, cells: Sequence[str], done: int) -> None:
        self.total, self.before = len(cells) + done, done
        self.message(_beginning(len(cells), done))

    def start(self, cell: str, said: Callable[[], str]) -> None:
        self.lines.pop(cell, None)
        self.lines[cell] = _Line("running", time.monotonic(), said)
        self._draw()

    def end(self, cell: str, word: str, note: str) -> None:
        now = time.monotonic()
        line = self.lines.pop(cell, None)
        self.lines[cell] = _Line(word, now - line.time if line else 0.0, lambda: note)
        self._draw()

    def message(self, text: str) -> None:
        self.console.print(Text(text))

    def tick(self) -> None:
        if time.monotonic() - self.drawn >= 0.5:
            self._draw()

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        self.live.update(self.table(), refresh=True)

    def table(self) -> Group:
        """What is shown now."""
        room = max(self.console.height - SPARE, 3)
        running = [cell for cell, line in self.lines.items() if line.word == "running"]
        ended = [cell for cell in self.lines if cell not in running]
        shown = ended[-max(room - len(running), 1) :] + running[:room]
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for title, width in zip(("", "cell", "time", "result"), self._widths(shown), strict=True):
            table.add_column(title, no_wrap=True, overflow="ellipsis", width=width)
        for cell in shown:
            line = self.lines[cell]
            seconds = line.time if line.word != "running" else time.monotonic() - line.time
            *marks, colour = MARKS.get(line.word, ("·", ".", "cyan"))
            mark = marks[0 if self.unicode else 1]
            table.add_row(
                Text(mark, style=colour),
                Text(one_line(cell)),
                Text(duration(round(seconds))),
                Text(one_line(line.note() or line.word), style="dim" if line.word == "running" else ""),
            )
        return Group(table, self._left())

    def _widths(self, cells: Sequence[str]) -> tuple[int, int, int, int]:
        """Of the columns: a narrow terminal cuts names and results, and nothing else."""
        free = max(self.console.width - 1 - CLOCK - 3 * GAP - 1, 2)
        name = min(max((len(cell) for cell in cells), default=4), max(free // 2, 1))
        return 1, name, CLOCK, free - name

    def _left(self) -> Text:
        """How many stand how, and how long the rest may take."""
        counts = Counter(line.word for line in self.lines.values())
        words = [f"{self.before + counts['finished']} of {self.total} finished"]
        words += [f"{counts[word]} {word}" for word in ("running", "failed", "interrupted") if counts[word]]
        if seconds := round(self._seconds_left() or 0.0):
            words.append(f"about {duration(seconds)} left")
        return Text(", ".join(words), style="dim")

    def _seconds_left(self) -> float | None:
        """As if all cells took as long as those that are finished."""
        took = [line.time for line in self.lines.values() if line.word == "finished"]
        running = [line.time for line in self.lines.values() if line.word == "running"]
        if not took or not running:
            return None
        each, now = mean(took), time.monotonic()
        waiting = self.total - self.before - len(self.lines)
        return (waiting * each + sum(max(each - (now - began), 0.0) for began in running)) / len(running)


def _beginning(cells: int, done: int) -> str:
    first = f"{cells} cell{'s' if cells != 1 else ''} to run"
    return f"{first}, {done} finished before" if done else first


@contextmanager
def watch(*, quiet: bool = False, console: Console | None = None) -> Iterator[View]:
    """The view that fits where stderr leads."""
    console = console or Console(stderr=True, highlight=False)
    if quiet:
        yield Silent()
    elif redraws(console):
        with Board(console) as board:
            yield board
    else:
        yield Lines(console.file)
