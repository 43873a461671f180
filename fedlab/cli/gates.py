"""What gates came to: a table of them, and the exit code."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fedlab.cli.output import grid
from fedlab.errors import GateFailed

FAIL_ON = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="EXPR",
        # Unescaped, the filter would be markup.
        help='Exit with code 4 if this holds, as in "attack.cascade\\[defense=dp-sgd].psnr_median > 20" or'
        ' "utility.accuracy < 0.8". Repeatable.',
        show_default=False,
    ),
]


def verdicts(data: dict[str, Any]) -> Any | None:
    """One row per gate; None without gates."""
    gates = data.get("gates") or []
    if not gates:
        return None
    from rich.text import Text

    table = grid("gate", "fails on")
    colours = {"passed": "green", "failed": "red", "undecided": "yellow"}
    for gate in gates:
        verdict = Text(gate["verdict"], style=colours[gate["verdict"]])
        table.add_row(verdict, Text.assemble(gate["expression"], "\n", (gate["text"], "dim")))
    return table


def judge(data: dict[str, Any]) -> None:
    """Whether every gate of a report holds.

    Raises:
        GateFailed: one does not.
    """
    from fedlab.report.gates import failing

    failed = failing(data)
    if failed:
        lines = "".join(f"\n  {one['expression']}\n    {one['text']}" for one in failed)
        raise GateFailed(f"{len(failed)} of {len(data['gates'])} gates failed:{lines}")
