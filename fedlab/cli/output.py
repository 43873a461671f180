"""What the commands print with: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedlab.errors import FedlabError, ScenarioError

PIPED = 160
"""Columns where there is no terminal: long lines are better than folded ones for whoever greps."""


class _Piped(Console):
    """rich ends the program with exit code 1 when nobody reads on; here a reader may have enough."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def stdout() -> Console:
    """A console on stdout, made when it is needed, so that a redirected stdout is respected."""
    return _Piped(highlight=False, width=None if sys.stdout.isatty() else PIPED)


def stderr() -> Console:
    """A console on stderr."""
    return Console(stderr=True, highlight=False)


def plain(text: str) -> None:
    """A line for machines: never wrapped, never coloured."""
    print(text)


def as_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    print()


def grid(*titles: str) -> Table:
    """A table without boxes: it stays readable in a log, and can be cut out of a terminal."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def show_error(error: Exception, *, debug: bool) -> None:
    """One screen: what, got, expected, remedy. A scenario's mistakes get a paragraph each on a terminal."""
    console = stderr()
    if isinstance(error, ScenarioError) and console.is_terminal:
        count = len(error.problems)
        heading = f"{count} mistake{'s' if count != 1 else ''} in "
        console.print(Text.assemble((heading, "bold red"), (error.source, "bold")))
        for problem in error.problems:
            console.print(Text("  " + problem.place, style="bold yellow"))
            console.print(Padding(Text(problem.message), (0, 0, 0, 4)))
        return
    message = str(error)
    if not isinstance(error, FedlabError):
        message = f"unexpected {type(error).__name__}: {error}"
        if not debug:
            message += "\nThis is a fault in fedlab or in a plugin; --debug shows where."
    console.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
