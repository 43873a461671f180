"""How a run looks while it works: live lines on a terminal, plain lines in a log, or nothing.

Everything goes to stderr, so that stdout holds results only. `NO_COLOR` and `FORCE_COLOR` are respected, and
what cannot redraw (`TERM=dumb`, a log that is to be colourful) gets plain lines. Plain lines carry no clock:
two logs of the same scenario can be compared.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from fedlab.progress import Progress, Quiet

SHORT = 20
"""A job of fewer steps gets no tenths in a log."""

SILENCE = 30.0
"""Seconds after which a log gets a line, even if no tenth is done."""

NARROW = 80
"""A terminal of fewer columns shows neither bars nor notes."""

SHORTENED, LONGEST = 200, 2000
"""Characters of a line about a job, and of a message."""


@contextmanager
def watch(*, quiet: bool = False, console: Console | None = None) -> Iterator[Progress]:
    """The listener that fits where stderr leads; what is still running at the end is shown as stopped."""
    console = console or Console(stderr=True, highlight=False)
    if quiet:
        yield Quiet()
    elif redraws(console):
        with Live(console) as live:
            yield live
    else:
        yield Plain(console.file)


def redraws(console: Console) -> bool:
    """Whether lines can be drawn over: `FORCE_COLOR` makes a log colourful, and no terminal of it."""
    if not console.is_terminal or console.is_dumb_terminal:
        return False
    return console.file.isatty() or not os.environ.get("FORCE_COLOR")


class Plain:
    """One line when a job starts, about ten while a long one runs (more if they are far apart), and
    one when it ends.

    Args:
        clock: seconds, for the silence between two lines.
    """

    def __init__(self, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream or sys.stderr, clock
        self.spoken = clock()
        self.totals: dict[str, int] = {}
        self.tenths: dict[str, int] = {}

    def start(self, job: str, total: int) -> None:
        self.totals[job], self.tenths[job] = total, 0
        self._line(f"{job}: started")

    def advance(self, job: str, done: int, note: str = "") -> None:
        total = self.totals.get(job, 0)
        if done >= total:
            return
        tenth = 10 * done // total if total >= SHORT else 0
        if tenth > self.tenths[job] or self.clock() - self.spoken >= SILENCE:
            self.tenths[job] = tenth
            self._line(f"{job}: {done} of {total}", note)

    def finish(self, job: str, note: str = "") -> None:
        self.totals.pop(job, None)
        self._line(f"{job}: done", note)

    def message(self, text: str) -> None:
        self._line(text, limit=LONGEST)  # a warning says at its end what to do

    def _line(self, text: str, note: str = "", limit: int = SHORTENED) -> None:
        print(one_line(f"{text}, {note}" if note else text, limit), file=self.stream, flush=True)
        self.spoken = self.clock()


class Live:
    """A line with a bar for each running job; a finished one shrinks to a tick above them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        unicode = console.encoding.lower().startswith("utf")
        self.tick, self.cross = ("✓", "✗") if unicode else ("+", "x")
        self.bars = Bars(
            *_columns(console.width),
            console=console,
            transient=True,
            expand=console.width >= NARROW,
            refresh_per_second=8,
        )
        self.jobs: dict[str, TaskID] = {}

    def __enter__(self) -> Live:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for job, task in self.jobs.items():
            state = self.bars.tasks[self.bars.task_ids.index(task)]
            steps = f" at {state.completed:.0f} of {state.total:.0f}" if state.total else ""
            self._mark(self.cross, "red", job, f"stopped{steps}")
        self.bars.stop()

    def start(self, job: str, total: int) -> None:
        # A job without steps pulses; its bar would otherwise be full from the start.
        self.jobs[job] = self.bars.add_task(one_line(job), total=total or None, note="")

    def advance(self, job: str, done: int, note: str = "") -> None:
        if job in self.jobs:
            self.bars.update(self.jobs[job], completed=done)
            if note:
                self.bars.update(self.jobs[job], note=one_line(note))

    def finish(self, job: str, note: str = "") -> None:
        task = self.jobs.pop(job, None)
        seconds = 0.0
        if task is not None:
            seconds = self.bars.tasks[self.bars.task_ids.index(task)].elapsed or 0.0
            self.bars.remove_task(task)
        self._mark(self.tick, "green", job, note, duration(seconds))

    def message(self, text: str) -> None:
        self.bars.console.print(Text(text))

    def _mark(self, sign: str, style: str, job: str, *notes: str) -> None:
        line = Text.assemble((sign, style), " ", one_line(job))
        for note in filter(None, notes):
            line.append(f"  {one_line(note)}", style="dim")
        self.bars.console.print(line, overflow="ellipsis", no_wrap=True)


def _columns(width: int) -> list[ProgressColumn]:
    """What a job's line shows; a narrow terminal keeps the words and the figures."""
    title = TextColumn("  {task.description}", markup=False, table_column=Column(no_wrap=True))
    steps = _Steps(table_column=Column(no_wrap=True, justify="right"))
    left = _Left(table_column=Column(no_wrap=True, justify="right"))
    if width < NARROW:
        return [title, steps, left]
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6))
    beside = Column(no_wrap=True, max_width=32, overflow="ellipsis")
    note = TextColumn("{task.fields[note]}", markup=False, style="dim", table_column=beside)
    return [title, bar, steps, left, note]


class _Steps(ProgressColumn):
    """12/400"""

    def render(self, task: Task) -> Text:
        total = f"{task.total:.0f}" if task.total is not None else "?"
        return Text(f"{task.completed:{len(total)}.0f}/{total}", style="cyan")


class _Left(ProgressColumn):
    """1:40 left"""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if left is None or task.finished else f"{duration(round(left))} left", style="magenta")


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `1:40 min`, `2:05 h`"""
    if seconds < 9.95 and not float(seconds).is_integer():
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def one_line(text: str, limit: int = SHORTENED) -> str:
    """Without line breaks and control characters: names and notes come from plugins."""
    clean = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
