"""Cells of a sweep one by one, for batch systems that have a queue of their own.

`cells.py plan DIR SCENARIO [--set KEY=VALUE]... [--sweep KEY=VALUE,VALUE]...` lays a sweep out and prints how
many cells it has; `cells.py run DIR NUMBER` runs the cell of that number, from 0, or goes on with it. The
directory is that of `fedlab sweep --out DIR`: `fedlab resume DIR` runs what is left and writes the report.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedlab.cli import main as fedlab
from fedlab.errors import FedlabError, UsageError
from fedlab.scenario.sweep import plan
from fedlab.sweeps.directory import SweepDirectory


def lay_out(directory: Path, scenario: str, overrides: list[str], axes: list[str]) -> int:
    """Write the directory of a sweep down; how many cells it has.

    Raises:
        ScenarioError: every mistake of every cell.
        UsageError: the directory holds something else.
    """
    made = SweepDirectory.create(directory, plan(scenario, overrides, axes), "")
    with made.locked():
        return len(made.sweep.cells)


def words(directory: Path, number: int) -> list[str]:
    """The arguments of fedlab that run a cell; none if it is finished.

    Raises:
        UsageError: there is no such cell.
    """
    found = SweepDirectory.open(directory)
    cells = found.sweep.cells
    if not 0 <= number < len(cells):
        raise UsageError(f"cell {number} of {directory}; expected a number from 0 to {len(cells) - 1}")
    cell = cells[number]
    return [] if found.status(cell) == "finished" else found.words(cell)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="cells.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    planning = commands.add_parser("plan")
    planning.add_argument("directory", type=Path)
    planning.add_argument("scenario")
    planning.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    planning.add_argument("--sweep", action="append", default=[], metavar="KEY=VALUE,VALUE")
    running = commands.add_parser("run")
    running.add_argument("directory", type=Path)
    running.add_argument("number", type=int)
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "plan":
            print(lay_out(asked.directory, asked.scenario, asked.set, asked.sweep))
            return 0
        command = words(asked.directory, asked.number)
    except FedlabError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if not command:
        print(f"cell {asked.number} is finished; nothing is left to do")
        return 0
    fedlab(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
